"""How a potential is trained, from the numbers of points and dimensions alone; found on the Wasserstein-2 benchmark."""

import dataclasses
import math
from typing import Any

from .._base.arguments import as_count, as_scalar


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that `fit_brenier` may be told about the training, resolved.

    Attributes:
        num_members: Members on the source side.
        num_target_members: Members on the target side.
        num_layers: Layers of a network.
        width: Units of a layer.
        noise: Standard deviation of the smoothing noise, in whitened units.
        num_steps: Steps of Adam.
        batch_size: Points of either sample per step.
        learning_rate: The largest learning rate.
        ascent_steps: Steps of the search for conjugate points, per step.
    """

    num_members: int
    num_target_members: int
    num_layers: int
    width: int
    noise: float
    num_steps: int
    batch_size: int
    learning_rate: float
    ascent_steps: int


# Up to so many points of the smaller sample, noise and many members are worth more than long training; and up to so
# many, members on both sides are.
_FEW, _FEWEST = 8192, 1000
# From so many dimensions on, members on the target side help as much as those on the source side.
_HIGH = 32


def _few(num_points: int, dim: int) -> Recipe:
    """Several small networks, smoothed."""
    high, fewest = dim >= _HIGH, num_points <= _FEWEST
    return Recipe(
        num_members=4,
        num_target_members=4 if high or fewest else 0,
        num_layers=2,
        width=64,
        noise=min(0.6, 1.25 * math.sqrt(dim / num_points)),
        num_steps=1000 if high or fewest else 2000,
        batch_size=256,
        learning_rate=0.03 if high else 0.05,
        ascent_steps=5,
    )


def _many(dim: int) -> Recipe:
    """One network, or two, for long."""
    high = dim >= _HIGH
    return Recipe(
        num_members=1 if dim <= 4 or high else 2,
        num_target_members=int(high),
        num_layers=3,
        width=64,
        noise=0.05 if high else 0.0,
        num_steps=5000 if high else 15_000 if dim <= 4 else 10_000,
        batch_size=256,
        learning_rate=0.01 if high else 0.03 if dim <= 8 else 0.02,
        ascent_steps=4 if high else 3,
    )


def recipe(num_points: int, dim: int, **given: Any) -> Recipe:
    """What is given, checked, and the rest by rule; ``None`` asks for the rule.

    Args:
        num_points: Points of the smaller sample.
        dim: Dimension d.
        given: Any attributes of `Recipe`.
    """
    rule = _few(num_points, dim) if num_points <= _FEW else _many(dim)
    values = {name: value for name, value in given.items() if value is not None}
    for name in ("num_members", "num_target_members"):
        if name in values:
            values[name] = as_count(name, values[name], minimum=0)
    for name in ("num_layers", "width", "num_steps", "batch_size"):
        if name in values:
            values[name] = as_count(name, values[name])
    if "noise" in values:
        values["noise"] = float(as_scalar("noise", values["noise"]))
    if "learning_rate" in values:
        values["learning_rate"] = float(as_scalar("learning_rate", values["learning_rate"], strict=True))
    if "num_members" in values and "num_target_members" not in values and rule.num_target_members:
        # As many as on the other side.
        values["num_target_members"] = values["num_members"]
    chosen = dataclasses.replace(rule, **values)
    if chosen.num_members + chosen.num_target_members == 0:
        raise ValueError("`num_members` and `num_target_members` must not both be 0: a map needs a potential.")
    return chosen
