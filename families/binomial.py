"""Components with independent binomial counts."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import (
    AbstractCoordinateFamily,
    AbstractPriors,
    ArrayLike,
    as_floating,
    check_names,
    is_traced,
    read_beta,
)

from ._counts import check_counts

# Probabilities are kept so far from zero and one.
_LEAST = 1e-7


class _Priors(AbstractPriors):
    """Uniform laws of the probabilities: conjugate."""

    def default(self, components: "Binomial", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        one = jax.device_put(np.ones(x.shape[1], x.dtype))
        return {"probability": dist.Beta(one, one, validate_args=False).to_event(1)}

    def hyperparameters(
        self, components: "Binomial", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> Any:
        check_names(priors, "probability")
        return read_beta("probability", priors["probability"], components.probability)

    def draw(self, key: Key[Array, ""], components: "Binomial", counts: Array, sums: Array, hyper: Any) -> "Binomial":
        yes, no = jax.random.split(key)
        failures = components.total_count * counts[:, None] - sums
        log_yes = jax.random.loggamma(yes, hyper.concentration1 + sums, dtype=sums.dtype)
        log_no = jax.random.loggamma(no, hyper.concentration0 + failures, dtype=sums.dtype)
        return components._of(jax.nn.sigmoid(log_yes - log_no))


class Binomial(AbstractCoordinateFamily):
    """K components with independent binomial counts, on whole numbers from zero to ``total_count``.

    An exponential family with T(x) = x in each coordinate and natural parameter log(p / (1 - p)). With one trial,
    coordinates are Bernoulli: yes or no.

    Attributes:
        probability: Probabilities of success, shape ``[K, d]``.
        total_count: Number of trials, the same for all coordinates; held fixed in fits.
    """

    exchangeable: ClassVar = True
    probability: Float[Array, "K d"]
    total_count: int = eqx.field(static=True)
    # NumPyro's mixtures refuse laws whose support depends on a parameter: `to_numpyro` is the interface's own.
    support: ClassVar = constraints.nonnegative_integer
    priors: ClassVar = _Priors()

    def __init__(self, probability: ArrayLike, total_count: int = 1):
        """Build components from probabilities, shape ``[K, d]``, and the number of trials.

        Raises:
            ValueError: If the shape does not fit, a probability is not between 0 and 1, or there is no trial.
        """
        self.probability = as_floating("probability", probability, "K d")
        self.total_count = _as_trials(total_count)
        if not is_traced(self.probability):
            host = np.asarray(self.probability)
            bad = np.argwhere(~((host > 0) & (host < 1)))
            if bad.size:
                index = tuple(int(i) for i in bad[0])
                raise ValueError(f"`probability` must lie between 0 and 1; got {host[index]:g} at index {list(index)}.")

    @property
    def dim(self) -> int:
        return self.probability.shape[-1]

    # -- the law of one count -------------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return (x,)

    def _log_base(self, x: Float[Array, ""]) -> Float[Array, ""]:
        rest = self.total_count - x
        inside = rest >= 0
        rest = jnp.where(inside, rest, jnp.zeros_like(rest))
        value = gammaln(jnp.asarray(self.total_count + 1.0, x.dtype)) - gammaln(x + 1) - gammaln(rest + 1)
        return jnp.where(inside, value, -jnp.inf)

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        return self.total_count * jax.nn.softplus(eta[0])

    def _natural(self) -> Float[Array, "d m"]:
        return (jnp.log(self.probability) - jnp.log1p(-self.probability))[..., None]

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "Binomial":
        return self._of(jax.nn.sigmoid(natural[..., 0]))

    def _of(self, probability: Float[Array, "K d"]) -> "Binomial":
        return Binomial(jnp.clip(probability, _LEAST, 1 - _LEAST), self.total_count)

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        shape = (self.total_count, *self.probability.shape)
        trials = jax.random.bernoulli(key, jnp.broadcast_to(self.probability[None], shape))
        return jnp.sum(trials.astype(self.probability.dtype), axis=0)

    def _mean(self) -> Float[Array, " d"]:
        return self.total_count * self.probability

    def _variance(self) -> Float[Array, " d"]:
        return self.total_count * self.probability * (1 - self.probability)

    def _mean_parameters(self) -> Float[Array, " m"]:
        return self._mean()

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "Binomial":
        return self._of(mean_parameters / self.total_count)

    # -- EM -------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Binomial":
        return Binomial(jnp.full((num_components, dim), 0.5, dtype), **fixed)

    def _fixed(self) -> dict[str, Any]:
        return {"total_count": self.total_count}

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        total = _as_trials(fixed.get("total_count", 1))
        if x.max() > total:
            row, column = (int(i) for i in np.argwhere(x > total)[0])
            raise ValueError(
                f"`x` must have counts of at most `total_count`, {total}; got {x[row, column]:g} at index "
                f"[{row}, {column}]. Say how many trials there are: template(Binomial, total_count={x.max():g})."
            )
        check_counts("Binomial", x)


def _as_trials(total_count: Any) -> int:
    if isinstance(total_count, bool) or int(total_count) != total_count or total_count < 1:
        raise ValueError(f"`total_count` must be a whole number of at least 1; got {total_count!r}.")
    return int(total_count)
