"""Conjugate updates of location and spread: the hyperparameters of NumPyro priors, and draws given sums over points."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.linalg
from jaxtyping import Array, Float, Key
from numpyro.distributions import transforms

from .._base.arguments import ArrayLike
from .._components.covariance import inverse_tril


class NormalPrior(NamedTuple):
    """Normal laws of K location vectors; the precision matrices are diagonal where they are vectors."""

    mean: Float[Array, "K d"]
    precision: Float[Array, "K d"] | Float[Array, "K d d"]

    def less(self, origin: ArrayLike) -> "NormalPrior":
        """The laws of the vectors less a constant one; on the host."""
        return NormalPrior(self.mean - np.asarray(origin)[None], self.precision)


class InverseGammaPrior(NamedTuple):
    """Inverse gamma laws of variances: rate over variance is gamma distributed."""

    concentration: Float[Array, "K *d"]
    rate: Float[Array, "K *d"]


class InverseWishartPrior(NamedTuple):
    """Inverse Wishart laws of K covariance matrices."""

    degrees: Float[Array, " K"]
    scale: Float[Array, "K d d"]


class GammaPrior(NamedTuple):
    """Gamma laws of rates."""

    concentration: Float[Array, "K *d"]
    rate: Float[Array, "K *d"]


class BetaPrior(NamedTuple):
    """Beta laws of probabilities."""

    concentration1: Float[Array, "K *d"]
    concentration0: Float[Array, "K *d"]


class DirichletPrior(NamedTuple):
    """Dirichlet laws of probabilities of categories."""

    concentration: Float[Array, "K d C"]


# -- reading priors: on the host, for these are few numbers ----------------------------------------------------------


def check_names(priors: dict[str, dist.Distribution], *names: str) -> None:
    """Raise TypeError unless the priors are on exactly these parameters."""
    if set(priors) != set(names):
        wanted, got = (", ".join(f"`{name}`" for name in sorted(group)) for group in (names, priors))
        raise TypeError(f"Gibbs needs priors on {wanted}; got {got}. Use NUTS for other parameters.")


def read_normal(name: str, prior: dist.Distribution, loc: Float[Array, "K d"], dense: bool = False) -> NormalPrior:
    """The hyperparameters of normal priors on ``loc``, with precision matrices if ``dense``."""
    law = without_shape(prior)
    if isinstance(law, dist.Normal):
        mean, scale = (_spread_out(value, loc.shape, loc.dtype) for value in (law.loc, law.scale))
        precision = 1 / scale**2
        return NormalPrior(mean, precision[:, :, None] * np.eye(loc.shape[1], dtype=loc.dtype) if dense else precision)
    if isinstance(law, dist.MultivariateNormal) and dense:
        mean = _spread_out(law.loc, loc.shape, loc.dtype)
        tril = _spread_out(law.scale_tril, (*loc.shape, loc.shape[1]), loc.dtype)
        root: Any = np.stack([scipy.linalg.solve_triangular(one, np.eye(len(one)), lower=True) for one in tril])
        return NormalPrior(mean, (np.swapaxes(root, 1, 2) @ root).astype(loc.dtype))
    raise _not_conjugate(name, law, "a Normal or MultivariateNormal" if dense else "a Normal")


def read_inverse_gamma(
    name: str, prior: dist.Distribution, parameter: Float[Array, "K *d"], power: float = 1.0
) -> InverseGammaPrior:
    """The hyperparameters of inverse gamma priors on variances, of which ``parameter`` is the given power."""
    law = without_shape(prior)
    gamma = _power_of_gamma(law)
    if gamma is None or not math.isclose(gamma[1], -power):
        raise _not_conjugate(name, law, "an InverseGamma" if power == 1 else "the square root of an InverseGamma")
    values = (gamma[0].concentration, gamma[0].rate)
    return InverseGammaPrior(*(_spread_out(value, parameter.shape, parameter.dtype) for value in values))


def read_gamma(name: str, prior: dist.Distribution, parameter: Float[Array, "K *d"]) -> GammaPrior:
    """The hyperparameters of gamma priors on rates."""
    law = without_shape(prior)
    if not isinstance(law, dist.Gamma):
        raise _not_conjugate(name, law, "a Gamma")
    return GammaPrior(*(_spread_out(v, parameter.shape, parameter.dtype) for v in (law.concentration, law.rate)))


def read_beta(name: str, prior: dist.Distribution, parameter: Float[Array, "K *d"]) -> BetaPrior:
    """The hyperparameters of beta priors on probabilities."""
    law = without_shape(prior)
    if not isinstance(law, dist.Beta):
        raise _not_conjugate(name, law, "a Beta")
    values = law.concentration1, law.concentration0
    return BetaPrior(*(_spread_out(value, parameter.shape, parameter.dtype) for value in values))


def read_dirichlet(name: str, prior: dist.Distribution, parameter: Float[Array, "K d C"]) -> DirichletPrior:
    """The hyperparameters of Dirichlet priors on probabilities of categories."""
    law = without_shape(prior)
    if not isinstance(law, dist.Dirichlet):
        raise _not_conjugate(name, law, "a Dirichlet")
    return DirichletPrior(_spread_out(law.concentration, parameter.shape, parameter.dtype))


def read_inverse_wishart(name: str, prior: dist.Distribution, scale_tril: Float[Array, "K d d"]) -> InverseWishartPrior:
    """The hyperparameters of inverse Wishart priors on covariances with Cholesky factors ``scale_tril``."""
    law = without_shape(prior)
    if not isinstance(law, dist.InverseWishartCholesky):
        raise _not_conjugate(name, law, "an InverseWishartCholesky")
    tril = _spread_out(law.scale_tril, scale_tril.shape, scale_tril.dtype)
    degrees = _spread_out(law.concentration, scale_tril.shape[:1], scale_tril.dtype)
    return InverseWishartPrior(degrees, tril @ np.swapaxes(tril, 1, 2))


def read_moments(
    priors: dict[str, dist.Distribution], loc: Float[Array, "K d"], variance: Float[Array, "K *d"], origin: Array
) -> dict[str, Any]:
    """The hyperparameters of normal locations, less ``origin``, and inverse gamma variances."""
    check_names(priors, "loc", "variance")
    location = read_normal("loc", priors["loc"], loc)
    own = read_inverse_gamma("variance", priors["variance"], variance)
    return {"loc": location.less(origin), "variance": own}


def without_shape(prior: Any) -> Any:
    """The law inside `to_event` and `expand`."""
    while isinstance(prior, dist.Independent | dist.ExpandedDistribution):
        prior = prior.base_dist
    return prior


def _power_of_gamma(law: Any) -> tuple[Any, float] | None:
    """The gamma law of which a law is a power, and the power."""
    law, power = without_shape(law), 1.0
    while isinstance(law, dist.TransformedDistribution):
        for transform in law.transforms:
            if not isinstance(transform, transforms.PowerTransform):
                return None
            power *= float(np.asarray(transform.exponent, np.float64))
        law = without_shape(law.base_dist)
    return (law, power) if isinstance(law, dist.Gamma) else None


def _spread_out(value: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    value = np.asarray(value, dtype)
    return np.broadcast_to(value.reshape((1,) * (len(shape) - value.ndim) + value.shape), shape)


def _not_conjugate(name: str, law: Any, wanted: str) -> TypeError:
    return TypeError(
        f"Gibbs needs {wanted} prior on `{name}`; got {type(law).__name__}. Use a conjugate prior, or NUTS."
    )


# -- draws given the sums over points -------------------------------------------------------------------------------


def draw_location(
    key: Key[Array, ""],
    prior: NormalPrior,
    precision: Float[Array, "K #d"],
    counts: Float[Array, " K"],
    mean: Float[Array, "K d"],
) -> Float[Array, "K d"]:
    """Locations given independent coordinates of known ``precision``, and the ``mean`` of the points of each."""
    weight = counts[:, None] * precision
    total = prior.precision + weight
    center = (prior.precision * prior.mean + weight * mean) / total
    return center + jax.random.normal(key, center.shape, center.dtype) / jnp.sqrt(total)


def draw_dense_location(
    key: Key[Array, ""],
    prior: NormalPrior,
    precision: Float[Array, "K d d"],
    counts: Float[Array, " K"],
    mean: Float[Array, "K d"],
) -> Float[Array, "K d"]:
    """Locations given known precision matrices, and the ``mean`` of the points of each component."""

    def one(prior: Any, precision: Array, count: Array, mean: Array, noise: Array) -> Float[Array, " d"]:
        weight = count * precision
        root = inverse_tril(jnp.linalg.cholesky(prior.precision + weight))
        return root.T @ (root @ (prior.precision @ prior.mean + weight @ mean) + noise)

    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return jax.vmap(one)(prior, precision, counts, mean, noise)


def draw_variance(
    key: Key[Array, ""],
    prior: InverseGammaPrior,
    counts: Float[Array, "K *#d"],
    squares: Float[Array, "K *d"],
) -> Float[Array, "K *d"]:
    """Variances given how many squared deviations there are, and their sum."""
    log_gamma = jax.random.loggamma(key, prior.concentration + 0.5 * counts, dtype=squares.dtype)
    return (prior.rate + 0.5 * squares) * jnp.exp(-log_gamma)


def draw_scale_tril(
    key: Key[Array, ""], prior: InverseWishartPrior, counts: Float[Array, " K"], scatter: Float[Array, "K d d"]
) -> Float[Array, "K d d"]:
    r"""Cholesky factors of covariances given sums of outer products of deviations.

    With $C C^\top$ the posterior scale and $M^\top M$ standard Wishart, M lower triangular (Bartlett, 1933), the
    covariance is $L L^\top$ with $L = C M^{-1}$.
    """
    diagonal_key, below_key = jax.random.split(key)
    dim = scatter.shape[1]
    steps = jnp.arange(dim - 1, -1, -1, dtype=scatter.dtype)
    degrees = (prior.degrees + counts)[:, None] - steps[None]
    log_chi2 = jax.random.loggamma(diagonal_key, 0.5 * degrees, dtype=scatter.dtype) + math.log(2)
    below = jnp.tril(jax.random.normal(below_key, scatter.shape, scatter.dtype), -1)

    def one(log_chi2: Array, below: Array, scale: Array) -> Float[Array, "d d"]:
        return jnp.linalg.cholesky(scale) @ inverse_tril(below + jnp.diag(jnp.exp(0.5 * log_chi2)))

    return jax.vmap(one)(log_chi2, below, prior.scale + scatter)
