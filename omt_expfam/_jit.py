"""Compilation of programs that differentiate whole plans."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

# XLA's CPU runtime runs independent parts of a program side by side. Where these are loops over products of matrices,
# as in derivatives of a plan, they can wait for each other's threads for ever (seen with jaxlib 0.10.2 on two cores).
_IN_ORDER = {"xla_cpu_enable_concurrency_optimized_scheduler": False}


@functools.cache
def _options(backend: str) -> dict[str, Any] | None:
    """Compiler options that this backend needs and knows."""
    if backend != "cpu":
        return None
    try:
        jax.jit(lambda: 0.0, compiler_options=_IN_ORDER)()
    except Exception:  # an XLA without that option
        return None
    return _IN_ORDER


def jit_in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """`equinox.filter_jit` of a function at module level, for a program whose parts run one after another on CPUs.

    It must be a program of its own, not part of another one.
    """
    return _compiled(function, jax.default_backend())


@functools.cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    settings: dict[str, Any] = {"compiler_options": _options(backend)}
    return eqx.filter_jit(function, **settings)
