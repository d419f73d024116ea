"""The check of a family, public."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._base.arguments import ArrayLike, as_count, as_key, KeyLike
from ..._base.arrays import host_generator
from ..._base.precision import in_float64
from ..._base.xla import program
from ..._components.contract import check_contract
from ..._components.exponential_family import AbstractExponentialFamily
from ..._components.interface import AbstractComponents
from ..._components.joined import Blocks
from ..._family.em_family import AbstractEMFamily
from ..._family.mixed_family import MixedFamily
from ..._family.template import as_template, Template
from ..data import read_data
from .findings import FamilyCheck
from .laws import law_findings
from .steps import em_findings, exponential_findings, form_findings, prior_findings

# Components that are looked at, and points at which exact comparisons are made.
_COMPONENTS, _POINTS = 3, 256


def check_family(
    family: Any,
    x: ArrayLike | None = None,
    *,
    key: KeyLike | None = None,
    num_draws: int = 20_000,
    throw: bool = True,
) -> FamilyCheck:
    """Compare the methods of a component family with each other, each by a way that does not use it.

    Densities must integrate to one (by importance sampling, so in any dimension; where too few weighted draws count,
    this is left out) and have the draws and the moments that the family says; the exponential family's parts, the
    forms that transport uses, the table and the change of units of EM must give the same densities; sums must add over
    chunks; and no step of EM may lower its objective. Everything is computed in float64.

    Args:
        family: Components, of which the first three are looked at; or a class or `template` that EM can fit, of which
            two components are made from ``x``.
        x: Points to fit, shape ``[n, d]``; draws of the components by default.
        key: Random key of the draws; a fixed one by default.
        num_draws: Draws of each component.
        throw: Raise where a comparison fails; otherwise the result tells.

    Raises:
        TypeError: If ``family`` is neither, or methods return something else than numbers.
        ValueError: If a method is wrong: it is named, with the number; or if ``x`` is missing for a class.
    """
    num_draws = as_count("num_draws", num_draws, minimum=1000)
    key = jax.random.key(0) if key is None else as_key(key)
    made = isinstance(family, AbstractComponents)
    if isinstance(family, Blocks):
        raise TypeError("`family` must be components of one family; got several. Check each block.")
    template = None if made and not isinstance(family, AbstractEMFamily) else as_template(family)
    if x is None and not made:
        raise ValueError("`x` must be given for a class: points to which its components are fitted.")
    points = None if x is None else _points(x, template, made)
    components = _first(family) if made else _started(template, points)
    check_contract(components)
    seed = int(host_generator(key).integers(2**31))
    findings = in_float64(lambda c, x: _findings(c, x, key, seed, num_draws), components, points)
    result = FamilyCheck(type(components).__name__, tuple(findings))
    if throw and not result.passed:
        wrong = result.failures[0]
        more = f" ({len(result.failures) - 1} more comparisons failed)" if len(result.failures) > 1 else ""
        raise ValueError(
            f"`{wrong.method}` of {result.family} contradicts its other methods: {wrong.what}, off by {wrong.gap:.3g} "
            f"where {wrong.limit:.2g} is allowed{more}."
        )
    return result


def _points(x: Any, template: Template | None, made: bool) -> Float[np.ndarray, "n d"]:
    """Some of the points, in float64."""
    if template is None:
        raise ValueError("`x` is for families that EM can fit; these components are checked without.")
    settings: dict[str, Any] = {"sample_weight": None, "covariance_prior": None, "regularization": 0.0}
    data = read_data(x, template, 2, standardize=False, tolerance=None, dtype="float64", chunk_size=None, **settings)
    some = np.random.default_rng(0).permutation(len(data.points))[:_POINTS]
    return data.points[some].astype(np.float64)


def _first(components: Any) -> Any:
    return components.select(np.arange(min(components.num_components, _COMPONENTS)))


def _started(template: Template | None, points: Any) -> AbstractEMFamily:
    """Two components, of the points on either side of the median of the first coordinate."""
    assert template is not None
    return in_float64(_start, template, points)


@program
def _start(template: Template, x: Float[Array, "n d"]) -> AbstractEMFamily:
    blank = template.blank(2, x.shape[1], x.dtype)
    below = jnp.argsort(jnp.argsort(x[:, 0])) < x.shape[0] // 2
    return blank._start(x.T, jnp.stack([below, ~below]).astype(x.dtype), jnp.zeros((), x.dtype))


def _findings(components: Any, points: Any, key: Array, seed: int, num_draws: int) -> list[Any]:
    if isinstance(components, MixedFamily):
        return _mixed_findings(components, points, key, seed, num_draws)
    draws = np.asarray(components.sample(key, num_draws), np.float64)
    found = law_findings(components, draws, seed)
    some = jax.device_put(draws[: _POINTS // components.num_components].reshape(-1, components.dim))
    found += form_findings(components, some)
    if isinstance(components, AbstractExponentialFamily):
        found += exponential_findings(components, some)
    if isinstance(components, AbstractEMFamily):
        fitted = some if points is None else points
        found += em_findings(components, fitted)
        if components.priors is not None:
            found += prior_findings(components, fitted)
    return found


def _mixed_findings(components: MixedFamily, points: Any, key: Array, seed: int, num_draws: int) -> list[Any]:
    """Those of every block, and of EM on all columns."""
    if points is None:
        points = components.sample(key, _POINTS // components.num_components)
    points, found = np.asarray(points).reshape(-1, components.dim), []
    for block, part in zip(components.blocks, components.parts, strict=True):
        for finding in _findings(part, jax.device_put(points[:, block.columns]), key, seed, num_draws):
            found.append(finding._replace(method=f"{block.name}: {finding.method}"))
    return found + em_findings(components, jax.device_put(points))
