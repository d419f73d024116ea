"""Draws of mixtures: one `Mixture` whose arrays carry a leading axis, one entry per draw."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .._base.arrays import batch_size, is_traced, take
from .mixture import Mixture, WEIGHT_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class HasDraws(Protocol):
        """A fitted posterior: draws, and the mixture whose labels they follow."""

        @property
        def mixtures(self) -> Mixture: ...

        @property
        def reference(self) -> Mixture: ...

    Draws = HasDraws | Mixture | Sequence[Mixture]
else:
    # Checked by `read_draws`, with better messages than a run-time type checker's.
    Draws = Any


class DrawSet(NamedTuple):
    """What a caller gave as one side of a transport.

    Attributes:
        mixtures: Draws with a leading axis S, which is 1 for a mixture without uncertainty.
        reference: The mixture whose labels the draws follow, or None.
        fixed: Whether this is one mixture without uncertainty.
    """

    mixtures: Mixture
    reference: Mixture | None
    fixed: bool


def read_draws(name: str, value: Draws) -> DrawSet:
    """Take a fitted posterior, draws, a list of mixtures, or one mixture or fit.

    Raises:
        TypeError: If it is none of them, or traced.
        ValueError: If draws differ in family, dimension or number of components, or hold invalid numbers.
    """
    reference = None
    mixtures: Any = getattr(value, "mixtures", getattr(value, "mixture", value))
    if hasattr(value, "mixtures"):
        reference = getattr(value, "reference", None)
    if isinstance(mixtures, list | tuple):
        mixtures = _stacked(name, mixtures)
    if not isinstance(mixtures, Mixture):
        raise TypeError(
            f"`{name}` must be a fitted posterior, draws of a Mixture, or one Mixture; got {type(value).__name__}."
        )
    if is_traced(mixtures):
        raise TypeError(f"`{name}` must hold concrete draws; under `jax.jit`, map `transport` over them by `jax.vmap`.")
    fixed = jnp.ndim(mixtures.weights) == 1
    if fixed:
        mixtures = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[None]), mixtures)
    mixtures = check_draws(name, mixtures)
    return DrawSet(mixtures, reference, fixed)


def _stacked(name: str, mixtures: Any) -> Mixture:
    """Single mixtures as draws."""
    if not mixtures or not all(isinstance(m, Mixture) and jnp.ndim(m.weights) == 1 for m in mixtures):
        raise TypeError(f"`{name}` must hold mixtures, one per draw.")
    first = mixtures[0]
    for what in ("num_components", "dim"):
        expected = getattr(first, what)
        for s, mixture in enumerate(mixtures):
            if getattr(mixture, what) != expected:
                raise ValueError(
                    f"`{name}` must have the same {what} in every draw; draw 0 has {expected}, draw {s} has "
                    f"{getattr(mixture, what)}. Use draws of one posterior."
                )
    if len({jax.tree.structure(mixture) for mixture in mixtures}) > 1:
        raise ValueError(f"`{name}` must have components of one family in every draw.")
    return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *mixtures)


def check_draws(name: str, draws: Mixture) -> Mixture:
    """The same draws, if they are valid along the leading axis of their arrays; else raise ValueError."""
    # What `jax.vmap` does not change stays a NumPy array.
    draws = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jax.device_put(np.array(leaf)), draws)
    host = jax.tree.map(np.asarray, draws)
    shape = tuple(draws.weights.shape)
    if len(shape) != 2 or shape[0] < 1:
        raise ValueError(
            f"`{name}` must hold draws, with weights of shape [S, K]; got shape {shape}. Make them by `jax.vmap` of "
            "a function that builds one Mixture."
        )
    leaves = jax.tree.leaves(host)
    if any(leaf.ndim < 2 or leaf.shape[0] != shape[0] for leaf in leaves):
        raise ValueError(f"`{name}` must have a leading axis of {shape[0]} draws on every array of its components.")
    num = take(host, 0).components.num_components
    if num != shape[1]:
        raise ValueError(f"`{name}` must have one weight per component in every draw, {num}; got {shape[1]}.")
    for leaf in leaves:
        values = leaf.reshape(shape[0], -1)
        # An infinity that all draws share is a constant of the family, such as an end of its support.
        bad = np.isnan(values) | (np.isinf(values) & ~np.isinf(values).all(axis=0))
        if bad.any():
            raise ValueError(f"`{name}` must be finite; draw {bad.any(axis=1).argmax()} is not. Drop that draw.")
    weights = np.asarray(host.weights, np.float64)
    wrong = (weights < 0).any(axis=1) | (np.abs(weights.sum(axis=1) - 1) > WEIGHT_TOLERANCE)
    if wrong.any():
        raise ValueError(f"`{name}` must have nonnegative weights that sum to one; draw {wrong.argmax()} has not.")
    return draws


def count_draws(draws: Mixture) -> int:
    """The number of draws S."""
    return draws.weights.shape[0]


def numbers_per_draw(draws: Mixture) -> int:
    """How many numbers one draw holds."""
    return sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(draws))


def evenly_spaced(total: int, num: int) -> np.ndarray:
    """Indices of ``num`` of ``total`` draws."""
    return np.linspace(0, total - 1, num).round().astype(int)


def chunks(total: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of ``size`` draws at a time, the last ones repeated to fill up, and how many of them count."""
    for start in range(0, total, size):
        yield np.minimum(np.arange(start, start + size), total - 1), min(size, total - start)


def draws_at_once(item_size: int, total: int) -> int | None:
    """How many draws a compiled loop works on at once, one draw being ``item_size`` numbers.

    One on a CPU, where loops of data-dependent length are faster one draw at a time than all in lock step.
    """
    return None if jax.default_backend() == "cpu" else min(batch_size(item_size, 2**26), total)
