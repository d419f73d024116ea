"""Compilation: programs on little data are compiled quickly, those on much data to run quickly."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

_In = ParamSpec("_In")
_Out = TypeVar("_Out")

# XLA's newer way of emitting loops for CPUs takes up to twice as long to compile, and twice the memory (jaxlib 0.10.2).
# What it emits is a little faster, which counts where arrays are larger than this.
_QUICK = {"xla_cpu_use_fusion_emitters": False}
_LARGE = 2**18
# Arrays up to this size are little.
_LITTLE = 2**15
# XLA's CPU runtime runs independent parts of a program side by side. Where these are loops over products of matrices,
# as in derivatives of a plan, they can wait for each other's threads for ever (seen with jaxlib 0.10.2 on two cores).
_IN_ORDER = {"xla_cpu_enable_concurrency_optimized_scheduler": False}
# Without optimizations code takes two fifths of the time to compile, and runs at a fifth of the speed or half of it.
_OPTIONS: dict[str, dict[str, Any]] = {
    "quick": _QUICK,
    "in order": _IN_ORDER,
    "brief": {**_QUICK, "xla_backend_optimization_level": 0},
}


@functools.cache
def _outside() -> Any:
    """The state in which nothing is traced: that of a thread of its own, since this one may be tracing."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(get_opaque_trace_state).result()


def traces_nothing() -> bool:
    """Whether no program is being traced."""
    return get_opaque_trace_state() == _outside()


def full_precision(function: Callable[_In, _Out]) -> Callable[_In, _Out]:
    """The same function, whose products of float32 matrices are float32's.

    GPUs and TPUs round their factors to three digits unless told otherwise (TF32, bfloat16): a map's quadratic forms
    were off by 6e-4 and derivatives of a cost by 1.5 % on an H200. CPUs compute the same either way.
    """

    @functools.wraps(function)
    def call(*args: _In.args, **kwargs: _In.kwargs) -> _Out:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return call


def jit(function: Callable[..., _Out], **settings: Any) -> Callable[..., _Out]:
    """`jax.jit` in full precision."""
    return full_precision(jax.jit(function, **settings))


def program(function: Callable[_In, _Out]) -> Callable[_In, _Out]:
    """`equinox.filter_jit` of a function at module level; on CPUs, quickly compiled where its arrays are small."""
    plain = eqx.filter_jit(function)

    @full_precision
    @functools.wraps(function)
    def call(*args: _In.args, **kwargs: _In.kwargs) -> _Out:
        # Options are for whole programs, not for parts of one.
        if not traces_nothing() or _largest((args, kwargs)) > _LARGE:
            return plain(*args, **kwargs)
        return _compiled(function, jax.default_backend(), "quick")(*args, **kwargs)

    return call


def brief_program(function: Callable[_In, _Out]) -> Callable[_In, _Out]:
    """A `program` that takes longer to compile than to run on little data: not optimized there, on CPUs."""
    usual = program(function)

    @full_precision
    @functools.wraps(function)
    def call(*args: _In.args, **kwargs: _In.kwargs) -> _Out:
        if not traces_nothing() or _largest((args, kwargs)) > _LITTLE:
            return usual(*args, **kwargs)
        return _compiled(function, jax.default_backend(), "brief")(*args, **kwargs)

    return call


def jit_in_order(function: Callable[_In, _Out]) -> Callable[_In, _Out]:
    """`equinox.filter_jit` of a function at module level, for a program whose parts run one after another on CPUs.

    It must be a program of its own, not part of another one.
    """

    @full_precision
    @functools.wraps(function)
    def call(*args: _In.args, **kwargs: _In.kwargs) -> _Out:
        return _compiled(function, jax.default_backend(), "in order")(*args, **kwargs)

    return call


def _largest(tree: Any) -> int:
    """The size of the largest array."""
    return max((getattr(leaf, "size", 0) for leaf in jax.tree.leaves(tree)), default=0)


@functools.cache
def _compiled(function: Callable[..., Any], backend: str, how: str) -> Callable[..., Any]:
    settings: dict[str, Any] = {"compiler_options": _known(backend, how)}
    return eqx.filter_jit(function, **settings)


@functools.cache
def _known(backend: str, how: str) -> dict[str, Any] | None:
    """Those options that this backend needs and knows."""
    wanted = _OPTIONS[how]
    if backend != "cpu":
        return None
    try:
        jax.jit(lambda: 0.0, compiler_options=wanted)()
    except Exception:  # an XLA without that option
        return None
    return wanted


def unfused(array: Any) -> Any:
    """The same array, kept apart from a reduction that follows.

    XLA's CPU compiler fuses a matrix product with a reduction of it; in jaxlib 0.10.2 some of these fusions return
    wrong numbers (products with three rows at 16,385 to 49,152 points, for one). Products that are reduced pass
    through here: a reduction to the array's own precision changes nothing and cannot be fused.
    """
    finfo = jnp.finfo(array.dtype)
    return jax.lax.reduce_precision(array, finfo.nexp, finfo.nmant)


def after(tree: Any, value: jax.Array) -> Any:
    """The same floating-point arrays, but not used before a scalar is known (NaN if it is NaN).

    jaxlib 0.10.2 shares the work of a batch of factorizations or triangular solves between its threads and waits for
    them. Two such operations that run side by side on a machine with two cores can wait for each other for ever; a
    dependence between them makes them take turns. (A compiler's barrier does not: it is gone before parts are run.)
    """
    return jax.tree.map(lambda leaf: jnp.where(jnp.isnan(value), jnp.asarray(jnp.nan, leaf.dtype), leaf), tree)
