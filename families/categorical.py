"""Components with independent categories."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCoordinateFamily,
    AbstractLattice,
    AbstractPriors,
    ArrayLike,
    as_cost,
    as_count,
    as_floating,
    categories,
    CategoryForm,
    check_names,
    is_traced,
    nearest_category,
    read_dirichlet,
    spread_of_categories,
)

# Probabilities are kept above this.
_LEAST = 1e-8


class _Priors(AbstractPriors):
    """Uniform laws of the probabilities: conjugate."""

    def default(self, components: "Categorical", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        one = jax.device_put(np.ones((x.shape[1], components.num_categories), x.dtype))
        return {"probability": dist.Dirichlet(one, validate_args=False).to_event(1)}

    def hyperparameters(
        self, components: "Categorical", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> Any:
        check_names(priors, "probability")
        return read_dirichlet("probability", priors["probability"], components.probability)

    def draw(
        self, key: Key[Array, ""], components: "Categorical", counts: Array, sums: Array, hyper: Any
    ) -> "Categorical":
        others = sums.reshape(*components.probability.shape[:2], -1)
        first = counts[:, None, None] - jnp.sum(others, axis=2, keepdims=True)
        total = hyper.concentration + jnp.concatenate([first, others], axis=2)
        log_gamma = jax.random.loggamma(key, total, dtype=sums.dtype)
        return components._of(jax.nn.softmax(log_gamma, axis=2))


class Categorical(AbstractCoordinateFamily):
    r"""K components with independent categories, the whole numbers 0, 1, ..., C - 1, in no order.

    An exponential family in each coordinate with T(x) the indicators of the categories but the first, and natural
    parameters log(p_c / p_0). Coordinates have the same number of categories; of those that have fewer, the last ones
    have no probability worth mentioning.

    Transported at a cost for every two categories, one between different ones unless another is given. Means are the
    categories of least mean cost (the most likely ones), and variances the mean costs from them.

    Attributes:
        probability: Probabilities, shape ``[K, d, C]``.
        cost: The cost of every two categories; held fixed in fits.
    """

    exchangeable: ClassVar = True
    probability: Float[Array, "K d C"]
    cost: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    support: ClassVar = categories
    priors: ClassVar = _Priors()

    def __init__(self, probability: ArrayLike, cost: Any = None):
        """Build components from probabilities, shape ``[K, d, C]``, and costs, shape ``[C, C]``.

        Raises:
            ValueError: If a shape does not fit, there is one category alone, probabilities are negative or do not sum
                to one, or costs are not symmetric with zeros on the diagonal and positive numbers elsewhere.
        """
        self.probability = as_floating("probability", probability, "K d C")
        self.cost = as_cost(self.probability.shape[-1], cost)
        if not is_traced(self.probability):
            host = np.asarray(self.probability, np.float64)
            if (host < 0).any() or (abs(host.sum(axis=-1) - 1) > 1e-5).any():
                raise ValueError("`probability` must not be negative, and sum to one over the categories.")

    @property
    def dim(self) -> int:
        return self.probability.shape[-2]

    @property
    def num_categories(self) -> int:
        """The number of categories C."""
        return self.probability.shape[-1]

    # -- the law of one category ----------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return tuple((x == c).astype(x.dtype) for c in range(1, len(self.cost)))

    def _log_base(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(x < len(self.cost), jnp.zeros_like(x), -jnp.inf)

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        return jax.nn.logsumexp(jnp.concatenate([jnp.zeros_like(eta[:1]), eta]))

    def _natural(self) -> Float[Array, "d m"]:
        log = jnp.log(jnp.maximum(self.probability, _LEAST))
        return log[..., 1:] - log[..., :1]

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "Categorical":
        return self._of(jax.nn.softmax(jnp.concatenate([jnp.zeros_like(natural[..., :1]), natural], axis=-1)))

    def _of(self, probability: Float[Array, "K d C"]) -> "Categorical":
        kept = jnp.maximum(probability, _LEAST)
        return Categorical(kept / jnp.sum(kept, axis=-1, keepdims=True), self.cost)

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jax.random.categorical(key, jnp.log(self.probability), axis=-1).astype(self.dtype)

    def _mean(self) -> Float[Array, " d"]:
        return nearest_category(self.probability, self.cost)

    def _variance(self) -> Float[Array, " d"]:
        return spread_of_categories(self.probability, self.cost)

    def _entropy(self) -> Float[Array, ""]:
        safe = jnp.maximum(self.probability, _LEAST)
        return -jnp.sum(self.probability * jnp.log(safe))

    def _mean_parameters(self) -> Float[Array, " m"]:
        return self.probability[..., 1:].ravel()

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "Categorical":
        others = mean_parameters.reshape(mean_parameters.shape[0], self.dim, -1)
        return self._of(jnp.concatenate([1 - jnp.sum(others, axis=-1, keepdims=True), others], axis=-1))

    # -- transport, EM --------------------------------------------------------------------------------------------

    def lattice_form(self) -> AbstractLattice | None:
        return None

    def category_form(self) -> CategoryForm:
        return CategoryForm(self.probability, self.cost)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Categorical":
        if "num_categories" not in fixed:
            raise ValueError(
                "`family` must say how many categories there are: template(Categorical, num_categories=3)."
            )
        num = as_count("num_categories", fixed["num_categories"], minimum=2)
        return Categorical(jnp.full((num_components, dim, num), 1 / num, dtype), fixed.get("cost"))

    def _fixed(self) -> dict[str, Any]:
        return {"num_categories": self.num_categories, "cost": self.cost}

    @classmethod
    def _read_fixed(cls, fixed: dict[str, Any]) -> dict[str, Any]:
        if fixed.get("cost") is None:
            return fixed
        cost = as_cost(fixed.get("num_categories", len(np.asarray(fixed["cost"]))), fixed["cost"])
        return fixed | {"num_categories": len(cost), "cost": cost}

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        needed = int(x.max()) + 1
        if "num_categories" not in fixed:
            raise ValueError(
                "`family` must say how many categories there are, such as template(Categorical, "
                f"num_categories={needed}) for those in `x`."
            )
        if needed > fixed["num_categories"]:
            row, column = (int(i) for i in np.argwhere(x >= fixed["num_categories"])[0])
            raise ValueError(
                f"`x` must have categories below {fixed['num_categories']}; got {x[row, column]:g} at index "
                f"[{row}, {column}]. There are {needed}: template(Categorical, num_categories={needed})."
            )
        constant = np.flatnonzero((x == x[:1]).all(axis=0))
        if constant.size:
            raise ValueError(
                f"`x` must have more than one category in every column for Categorical; got {x[0, constant[0]]:g} "
                f"alone in column {constant[0]}. Leave such columns out."
            )
