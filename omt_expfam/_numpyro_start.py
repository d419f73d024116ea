"""Where inference starts for mixtures of NumPyro distributions, which EM does not know."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ._fit import fit
from ._mixture_distribution import density_table
from ._mixture_model import MixtureModel
from ._mode import minimize
from ._numpyro_law import relaxed
from ._target import Target

_NUM_PRIOR_DRAWS = 512


def numpyro_start(key: Key[Array, ""], x: Float[Array, "n d"], model: MixtureModel) -> dict[str, Array]:
    """Sites near a good mode: every component at the prior median, then fitted to the points of one Gaussian component.

    The Gaussian mixture is fitted by EM; its responsibilities break the symmetry. What is maximized is the likelihood
    of the points with their responsibilities, times the prior.
    """
    from families import DiagonalGaussian

    fit_key, prior_key = jax.random.split(key)
    gaussian = fit(fit_key, x, DiagonalGaussian, model.num_components).mixture
    responsibilities = gaussian.responsibilities(x).T
    prior = Target.of(model)
    with relaxed():
        draws = {"weights": jnp.broadcast_to(gaussian.weights, (_NUM_PRIOR_DRAWS, model.num_components))}
        for name, law in model.priors.items():
            prior_key, own = jax.random.split(prior_key)
            draws[name] = law.sample(own, (_NUM_PRIOR_DRAWS,))
    start = np.median(np.asarray(jax.vmap(prior.unconstrain)(draws)), axis=0)

    found = minimize(lambda u: _expected(prior, x, responsibilities, u), start, maxiter=500)
    return prior.constrain(jnp.asarray(found.x))


@eqx.filter_jit
def _expected(target: Target, x: Any, responsibilities: Any, u: Float[Array, " p"]) -> tuple[Array, Array]:
    """Minus the log-likelihood of points with their components, expected, minus the log prior; and its gradient."""

    def energy(u: Float[Array, " p"]) -> Float[Array, ""]:
        mixture = target.model.mixture(target.constrain(u))
        joint = density_table(mixture.components, x) + jnp.log(mixture.weights)[:, None]
        return target.potential(u) - jnp.sum(responsibilities * joint)

    return jax.value_and_grad(energy)(u)
