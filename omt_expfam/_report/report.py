"""Writing the page."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import omt_expfam

from .._base.arguments import ArrayLike, as_points
from .._base.labels import as_memberships
from .._base.tables import in_order
from .._components.columns import require_numbers
from .._files.archive import atomic_file
from .._fitting.fit import Fit
from .._plans.plan import TransportPlan
from ..plot._embedding import as_places, coordinates
from .page import page
from .sections import in_plane, sections, Story

# Points that are drawn where none were given.
_DRAWN = 500


def report(
    path: str | os.PathLike[str],
    plan: TransportPlan,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    fits: tuple[Fit | None, Fit | None] = (None, None),
    labels: Any = (None, None),
    embedding: Any = None,
    dims: ArrayLike | None = None,
    names: tuple[str, str] = ("source", "target"),
    title: str | None = None,
    notes: Sequence[str] = (),
    checks: Sequence[Any] = (),
    call: str | None = None,
    replace: bool = True,
) -> None:
    """Write one HTML page on a plan: what goes where, pictures, labels, checks in words, how to reproduce and cite.

    The page holds all that it needs and loads nothing: it can be sent by mail, and opens without a network. Its charts
    are plotly's, and need JavaScript; tables beside them say the same. It appears only when it is complete.

    Args:
        path: The page, ``.html``.
        plan: The plan.
        x: Points of the source, shape ``[n, d]``; by default some are drawn.
        y: Points of the target, shape ``[m, d]``.
        fits: The fits of both sides, ``None`` where unknown.
        labels: Labels of ``x`` and of ``y``, one for each point or probabilities (see `TransportPlan.transfer`),
            ``None`` where unknown; those of ``y`` count only beside those of ``x``.
        embedding: Coordinates of ``x`` and of ``y`` to draw them at, such as a UMAP, a pair of shapes ``[n, 2]`` and
            ``[m, 2]``; or a function from points to such. See `omt_expfam.plot.arrows`.
        dims: Without an embedding, the two dimensions to show; by default the first two that vary and are not nearly
            the same.
        names: What to call both sides.
        title: The title of the page.
        notes: How things were chosen, the numbers of components say: a sentence each.
        checks: Results of `omt_expfam.diagnostics`, such as a `Uniqueness`, whose summaries are added.
        call: The lines that made the plan, for others to repeat them.
        replace: Replace a file of that name.

    Raises:
        ModuleNotFoundError: If plotly is not installed.
        TypeError: If coordinates are angles.
        ValueError: If points, labels or coordinates do not fit the plan, or each other.
        FileExistsError: Unless ``replace``, if there is a file of that name.
    """
    require_numbers("A report", plan.source.components)
    library = plotly_library()
    titles = str(names[0]), str(names[1])
    given = x is not None, y is not None
    points = _points(plan, "x", x, plan.source, 0), _points(plan, "y", y, plan.target, 1)
    labels = _labels(labels, points, given)
    if embedding is not None and not callable(embedding) and not all(given):
        raise ValueError(f"`{'xy'[given.index(False)]}` must be given with an `embedding` of points.")
    sides = [("x", points[0]), ("y", points[1])]
    places = as_places(embedding, dims, sides, [plan.source, plan.target], names=plan.feature_names)
    spots = [coordinates(embedding, number, values, places) for number, values in enumerate(points)]
    story = Story(
        plan,
        titles,
        points,
        given,
        (fits[0], fits[1]),
        labels,
        places,
        (in_plane(spots[0], 0), in_plane(spots[1], 1)),
        tuple(notes),
        tuple(checks),
        call,
    )
    heading = f"From {titles[0]} to {titles[1]}" if title is None else title
    sizes = f"{plan.weights.shape[0]} components to {plan.weights.shape[1]}"
    lead = f"Optimal transport between two mixtures: {sizes}, in {plan.source.dim} dimensions."
    generator = f"omt-expfam {omt_expfam.__version__}"
    written = page(heading, lead, sections(story), library, generator)
    with atomic_file(path, replace=replace) as file:
        file.write(written.encode())


def plotly_library() -> str:
    """The source of plotly.js.

    Raises:
        ModuleNotFoundError: If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("A report needs plotly: pip install 'omt-expfam[report]'.") from error
    return get_plotlyjs()


def _points(plan: TransportPlan, name: str, values: Any, mixture: Any, number: int) -> np.ndarray:
    if values is None:
        return np.asarray(mixture.sample(jax.random.key(number), _DRAWN))
    return np.asarray(as_points(name, in_order(name, values, plan.feature_names), plan.source.dim))


def _labels(labels: Any, points: tuple[np.ndarray, np.ndarray], given: tuple[bool, bool]) -> tuple[Any, Any]:
    """Labels of both sides, checked."""
    if not isinstance(labels, tuple | list) or len(labels) != 2:
        raise ValueError("`labels` must be a pair: labels of `x` and of `y`, None where unknown.")
    for name, own, values, known in zip("xy", labels, points, given, strict=True):
        if own is not None:
            if not known:
                raise ValueError(f"`{name}` must be given with its `labels`.")
            as_memberships(f"labels of {name}", own, len(values))
    if labels[1] is not None and labels[0] is None:
        raise ValueError(
            "`labels` of `x` must be given beside those of `y`; report on `plan.reverse()` for these alone."
        )
    return tuple(None if own is None else own if np.ndim(own) == 2 else np.asarray(own) for own in labels)  # type: ignore[return-value]
