"""Minimization on the host."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array


def minimize(function: Callable[[Array], tuple[Array, Array]], start: np.ndarray, **options: Any) -> Any:
    """SciPy's L-BFGS on a JAX function; places where that is not finite count as infinitely high."""
    import scipy.optimize

    def value(u: np.ndarray) -> tuple[float, np.ndarray]:
        energy, slope = (np.asarray(v) for v in function(jax.device_put(u)))
        finite = np.isfinite(energy) and np.isfinite(slope).all()
        return (float(energy), slope) if finite else (np.inf, np.zeros_like(u))

    return scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options)
