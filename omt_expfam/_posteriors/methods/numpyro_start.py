"""Where inference starts for mixtures of NumPyro distributions, which EM does not know."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from families import DiagonalGaussian

from ..._base.arrays import split_key
from ..._base.buckets import pad, point_bucket
from ..._base.precision import relaxed
from ..._base.xla import program
from ..._components.mixture import Mixture, responsibilities
from ..._fitting.fit import fit
from ..._numerics.minimize import minimize
from ..distribution import density_table
from ..model import MixtureModel
from .target import Target

_NUM_PRIOR_DRAWS = 512


def numpyro_start(
    key: Key[Array, ""], x: Float[np.ndarray, "n d"], model: MixtureModel
) -> tuple[dict[str, Array], Mixture]:
    """Sites near a good mode: every component at the prior median, then fitted to the points of one Gaussian component.

    The Gaussian mixture is fitted by EM; its responsibilities break the symmetry. What is maximized is the likelihood
    of the points with their responsibilities, times the prior. Returns the sites and their mixture.
    """
    fit_key, prior_key = split_key(key, 2)
    gaussian = fit(fit_key, x, DiagonalGaussian, model.num_components).mixture
    prior, size = Target.of(model), point_bucket(len(x))
    points, used = jax.device_put((pad(x, size), np.arange(size) < len(x)))
    shares, draws = _shares_and_draws(prior, gaussian, prior_key, points, used)
    found = minimize(lambda u: _expected(prior, points, shares, u), np.median(np.asarray(draws), axis=0), maxiter=500)
    return _sites_and_mixture(prior, jax.device_put(found.x))


@program
def _shares_and_draws(
    prior: Target, gaussian: Mixture, key: Key[Array, ""], x: Float[Array, "n d"], used: Bool[Array, " n"]
) -> tuple[Float[Array, "K n"], Float[Array, "s p"]]:
    """Responsibilities of a Gaussian mixture for points, and draws from the prior as unconstrained numbers."""
    shares = jnp.where(used[:, None], responsibilities(gaussian, x), 0.0).T
    with relaxed():
        draws = {"weights": jnp.broadcast_to(gaussian.weights, (_NUM_PRIOR_DRAWS, gaussian.weights.size))}
        for name, law in prior.model.priors.items():
            key, own = jax.random.split(key)
            draws[name] = law.sample(own, (_NUM_PRIOR_DRAWS,))
    return shares, jax.vmap(prior.unconstrain)(draws)


@program
def _sites_and_mixture(prior: Target, u: Float[Array, " p"]) -> tuple[dict[str, Array], Mixture]:
    sites = prior.constrain(u)
    return sites, prior.model.mixture(sites)


@program
def _expected(target: Target, x: Any, shares: Any, u: Float[Array, " p"]) -> tuple[Array, Array]:
    """Minus the log-likelihood of points with their components, expected, minus the log prior; and its gradient."""

    def energy(u: Float[Array, " p"]) -> Float[Array, ""]:
        mixture = target.model.mixture(target.constrain(u))
        joint = density_table(mixture.components, x) + jnp.log(mixture.weights)[:, None]
        return target.potential(u) - jnp.sum(shares * joint)

    return jax.value_and_grad(energy)(u)
