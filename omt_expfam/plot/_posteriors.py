"""Pictures of what is uncertain about a plan: its map, and who goes where."""

from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_count, as_points, check_probability
from .._base.arrays import spread_indices
from .._posterior_plans.plan import PosteriorPlan
from .._posteriors.posterior import PosteriorFit
from ._arrows import draw_arrows
from ._embedding import as_places
from ._style import axes_or_new, color_map, ink_on, name_components, NEUTRAL_COLOR, SOURCE_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    import matplotlib.axes

# Heat maps of up to this many components on either side show intervals in their cells, and up to the other, numbers.
_MAX_INTERVALS, _MAX_CELLS = 6, 12


def uncertain_map(
    posterior_plan: PosteriorPlan,
    x: ArrayLike,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    dims: ArrayLike | None = None,
    embedding: Any = None,
    y: ArrayLike | None = None,
    probability: float = 0.9,
    max_arrows: int = 60,
    color: str | None = None,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw the map with its uncertainty: arrows from points to the posterior mean of T(x), ellipses around their tips.

    An ellipse holds the given probability of the normal law with the mean and covariance of the draws of T(x). In one
    dimension this is the mean image against the point, in a band of equal-tailed intervals.

    Args:
        posterior_plan: The posterior of the plan.
        x: Points, shape ``[n, d]``.
        ax: Axes to draw into.
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: Coordinates to draw the points at, as for `arrows`; every draw's images stand there.
        y: Points of the target, shape ``[m, d]``, among which images stand in an embedding.
        probability: Posterior probability of each ellipse, or interval.
        max_arrows: Of more points than this, as many are shown, evenly spaced.
        color: Color of the ellipses or of the band; by default that of the target.
        **style: Options passed on to ``quiver`` (``plot`` in one dimension).

    Returns:
        The axes.

    Raises:
        ValueError: If ``x`` does not fit the plan, ``dims`` are not two of its dimensions, or ``probability`` is none.
    """
    from matplotlib.patches import Ellipse

    check_probability(probability)
    dim = posterior_plan.plan(0).source.dim
    points = np.asarray(as_points("x", x, dim))
    if not len(points):
        raise ValueError(f"`x` must have at least one point; got shape {points.shape}.")
    sides = [("x", points), *([] if y is None else [("y", as_points("y", y, dim))])]
    places = as_places(embedding, dims, sides)
    points = points[spread_indices(len(points), as_count("max_arrows", max_arrows))]
    images = np.asarray(posterior_plan.push_forward(points), np.float64)
    mean, color = images.mean(axis=0), color or TARGET_COLOR
    panel = draw_arrows(axes_or_new(ax), mean, points, places, max_arrows, style=style)
    if dim == 1 and embedding is None:
        order = np.argsort(points[:, 0], kind="stable")
        ends = np.quantile(images[:, order, 0], [(1 - probability) / 2, (1 + probability) / 2], axis=0)
        panel.fill_between(points[order, 0], *ends, color=color, alpha=0.25, linewidth=0, zorder=1.5)
        return panel
    # The squared radius of a normal law in the plane is exponential.
    radius = np.sqrt(-2 * np.log(1 - probability))
    centers = places.of(mean)
    spots = places.of(images.reshape(-1, dim)).reshape(*images.shape[:2], 2)
    offset = spots - (centers if embedding is None else spots.mean(axis=0))
    corners = []
    for center, spread in zip(centers, offset.swapaxes(0, 1), strict=True):
        values, vectors = np.linalg.eigh(spread.T @ spread / len(spread))
        height, width = 2 * radius * np.sqrt(np.maximum(values, 0))
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        place, shape = (center[0], center[1]), {"width": width, "height": height, "angle": angle}
        panel.add_patch(Ellipse(place, **shape, facecolor=color, edgecolor="none", alpha=0.12, zorder=2.05))
        panel.add_patch(Ellipse(place, **shape, fill=False, edgecolor=color, linewidth=0.9, alpha=0.8, zorder=2.1))
        corners += [center - width / 2, center + width / 2]
    panel.update_datalim(np.array(corners))
    panel.autoscale_view()
    return panel


def weights_posterior(
    posterior_plan: PosteriorPlan,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    probability: float = 0.9,
    source_order: ArrayLike | None = None,
    target_order: ArrayLike | None = None,
    annotate: bool | None = None,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw who goes where as a heat map: the posterior mean share of each source component sent to each target one.

    Cells hold the mean share, and for up to 6 components on either side its credible interval beneath; a frame marks
    pairs that take more than half of the source component with the given probability.

    Args:
        posterior_plan: The posterior of the plan, its draws under common labels.
        ax: Axes to draw into.
        probability: Posterior probability of the intervals and of the frames.
        source_order: The source components to show, from top to bottom; by default all, as numbered.
        target_order: The target components to show, from left to right.
        annotate: Write into the cells; by default for up to 12 components on either side.
        **style: Options passed on to ``imshow``, such as ``cmap``.

    Returns:
        The axes.

    Raises:
        ValueError: If ``probability`` is none, or an order does not name components.
    """
    from matplotlib.patches import Rectangle

    interval = posterior_plan.row_shares_interval(probability)
    orders = (("source_order", source_order), ("target_order", target_order))
    shown = [_check_order(*order, num) for order, num in zip(orders, interval.mean.shape, strict=True)]
    tables = (interval.mean, interval.lower, interval.upper, posterior_plan.probability_of_sending())
    mean, lower, upper, sends = (np.asarray(table, np.float64)[np.ix_(*shown)] for table in tables)
    rows, columns = mean.shape
    panel = axes_or_new(ax)
    aspect = "equal" if max(rows, columns) <= 2 * min(rows, columns) else "auto"
    image = panel.imshow(mean, **{"cmap": color_map("#54278F"), "vmin": 0, "vmax": 1, "aspect": aspect} | style)
    largest = max(rows, columns)
    if annotate if annotate is not None else largest <= _MAX_CELLS:
        for (i, j), share in np.ndenumerate(mean):
            if upper[i, j] >= 0.005:
                text = f"{share:.2f}"
                if largest <= _MAX_INTERVALS:
                    text += f"\n{lower[i, j]:.2f} to {upper[i, j]:.2f}"
                ink = ink_on(image.cmap(image.norm(share)))
                panel.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    for i, j in np.argwhere(sends >= probability):
        frame = Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=TARGET_COLOR, linewidth=2.5)
        panel.add_patch(frame)
    for axis, numbers, names in zip((panel.yaxis, panel.xaxis), shown, posterior_plan.component_names, strict=True):
        name_components(axis, numbers, names)
    panel.tick_params(length=0)
    panel.set_xlabel("target component")
    panel.set_ylabel("source component")
    panel.spines[:].set_color("0.7")
    bar = panel.figure.colorbar(image, ax=panel, shrink=0.8)
    bar.set_label("mean share of the source component")
    bar.outline.set_visible(False)
    return panel


def _check_order(name: str, order: ArrayLike | None, num: int) -> np.ndarray:
    """The components to show: all, or different ones of them."""
    if order is None:
        return np.arange(num)
    numbers = np.asarray(order)
    whole = numbers.ndim == 1 and numbers.size and numbers.dtype.kind in "iu"
    if not whole or len(set(numbers.tolist())) != numbers.size or numbers.min() < 0 or numbers.max() >= num:
        raise ValueError(f"`{name}` must list different components from 0 to {num - 1}; got {order}.")
    return numbers


def posterior_trace(
    posterior: PosteriorFit, *, ax: Optional["matplotlib.axes.Axes"] = None, **style: Any
) -> "matplotlib.axes.Axes":
    """Draw how a posterior was found: the bound of variational inference, or a label-free quantity along each chain.

    The quantity is the mean log-likelihood where the data are known, else the mean of the first coordinate.

    Args:
        posterior: The posterior.
        ax: Axes to draw into.
        **style: Options passed on to ``plot``.

    Returns:
        The axes.
    """
    panel = axes_or_new(ax)
    if "elbo" in posterior.traces:
        bound = np.asarray(posterior.traces["elbo"], np.float64)
        panel.plot(bound, **{"color": NEUTRAL_COLOR, "linewidth": 0.5, "alpha": 0.5} | style)
        width = max(len(bound) // 50, 1)
        panel.plot(
            np.arange(width - 1, len(bound)), np.convolve(bound, np.ones(width) / width, "valid"), color=SOURCE_COLOR
        )
        # The first steps are far below the rest.
        panel.set_ylim(np.quantile(bound, 0.02), bound.max())
        panel.set_xlabel("step")
        panel.set_ylabel("evidence lower bound (nats)")
        return panel
    chains = np.asarray(posterior.label_free.draws[0], np.float64).reshape(posterior.num_chains, -1)
    colors = (SOURCE_COLOR, TARGET_COLOR)
    for index, chain in enumerate(chains):
        panel.plot(chain, **{"color": colors[index % 2], "linewidth": 0.6, "alpha": 0.8} | style)
    name = posterior.label_free.names[0]
    panel.set_xlabel("draw")
    panel.set_ylabel("mean log-likelihood (nats per point)" if name == "log_likelihood" else f"mixture {name}")
    panel.set_title(posterior.in_words(), fontsize="small")
    return panel
