"""The parts of the page, in their order: the answer, the data, the plan, the map, labels, checks, how it was made."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

import omt_expfam

from .._base.arrays import spread_indices
from .._fitting.fit import Fit
from .._plans.correspondences import as_texts
from .._plans.groups import group_shares
from .._plans.plan import TransportPlan
from ..plot._embedding import Places
from . import charts, words
from .citation import BIBTEX, CITATION, SOFTWARE
from .page import code, figure, mark, paragraph, Section, table, tiles

# Pairs that are lighter are left out of the chart, rows of tables beyond the other number of the page.
_LEAST, _MOST_ROWS = 1e-3, 100


class Story(NamedTuple):
    """What the page is about.

    Attributes:
        plan: The plan.
        titles: What both sides are called.
        points: Points of both sides, drawn from the mixtures where none were given.
        given: Whether points were given, for each side.
        fits: The fits of both sides, ``None`` where unknown.
        labels: Labels of the points of both sides, ``None`` where unknown.
        places: Where points stand in pictures.
        spots: Places of the points.
        notes: How things were chosen, a sentence each.
        checks: Results of diagnostics, which have a summary.
        call: What made the plan, as it was typed.
    """

    plan: TransportPlan
    titles: tuple[str, str]
    points: tuple[np.ndarray, np.ndarray]
    given: tuple[bool, bool]
    fits: tuple[Fit | None, Fit | None]
    labels: tuple[Any, Any]
    places: Places
    spots: tuple[np.ndarray, np.ndarray]
    notes: Sequence[str]
    checks: Sequence[Any]
    call: str | None

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Names of the components of both sides: their own, or numbers."""
        sizes = self.plan.weights.shape
        return [as_texts(own, size) for own, size in zip(self.plan.component_names, sizes, strict=True)]

    @property
    def colors(self) -> list[list[str]]:
        """Colors of the components of both sides."""
        return charts.side_colors(self.plan.component_names, np.asarray(self.plan.weights, np.float64))


def sections(story: Story) -> list[Section]:
    """All parts that there is something to say in."""
    parts = [_answer(story), _data(story), _plan(story), _map(story)]
    parts += [] if story.labels[0] is None else [_labels(story)]
    return [*parts, _checks(story), _choices(story), _again(story)]


def _answer(story: Story) -> Section:
    plan = story.plan
    known = zip(plan.component_names, story.names, strict=True)
    names = [own if has is not None else [f"component {name}" for name in own] for has, own in known]
    heavy = plan.correspondences(0.0)
    best = [(names[0][i], names[1][j]) for i, j in zip(heavy.source[:3], heavy.target[:3], strict=True)]
    said = [
        f"{a} → {b} ({weight:.0%} of the mass, {share:.0%} of {a})"
        for (a, b), weight, share in zip(best, heavy.weight, heavy.share_of_source, strict=False)
    ]
    numbers = [
        ("Transport cost", f"{float(plan.cost):.4g}", "mean squared distance, squared units of the data"),
        ("Distance", f"{float(plan.cost) ** 0.5:.4g}", "root of the cost: how far points go, units of the data"),
    ]
    if min(plan.weights.shape) > 1:
        share = f"{float(plan.independence):.0%}"
        numbers.append(("Independence", share, "0% is one-to-one, 100% says nothing"))
    if plan.masses is not None:
        given = f"of {float(plan.masses.source_mass):.4g} and {float(plan.masses.target_mass):.4g} given"
        numbers.append(("Mass transported", f"{float(plan.mass):.4g}", given))
    warnings = [paragraph(line, "advice") for line in words.remarks(plan)]
    return Section("answer", "In short", [tiles(numbers), *warnings, paragraph(f"Largest flows: {'; '.join(said)}.")])


def _data(story: Story) -> Section:
    plan = story.plan
    columns = ["", *story.titles]
    family = [type(side.components).__name__ for side in (plan.source, plan.target)]
    rows: list[list[str]] = [
        ["points", *(str(len(p)) if own else "not given" for p, own in zip(story.points, story.given, strict=True))],
        ["dimensions", *[str(plan.source.dim)] * 2],
        ["components", *map(str, plan.weights.shape)],
        ["family", *family],
    ]
    if any(story.fits):
        rows += [
            [
                "log-likelihood, nats per point",
                *(_of(fit, lambda f: f"{float(f.log_likelihood):.4g}") for fit in story.fits),
            ],
            ["BIC, smaller is better", *(_of(fit, lambda f: f"{float(f.bic):.5g}") for fit in story.fits)],
            ["steps of EM", *(_of(fit, lambda f: str(int(f.num_steps))) for fit in story.fits)],
            ["converged", *(_of(fit, lambda f: "yes" if f.converged else "no") for fit in story.fits)],
            [
                "points behind the smallest component",
                *(_of(fit, lambda f: f"{float(np.min(f.effective_sizes)):.4g}") for fit in story.fits),
            ],
        ]
    parts = [table("Both sides", columns, rows, numbers=(1, 2))]
    features = list(plan.feature_names or (f"x{i}" for i in range(plan.source.dim)))
    sides = zip(story.titles, (plan.source, plan.target), story.names, story.fits, strict=True)
    for number, (title, side, names, fit) in enumerate(sides):
        means = np.asarray(side.components.mean(), np.float64)
        weights = np.asarray(side.weights, np.float64)
        shown = features[:6]
        head = ["component", "weight", *(["points"] if fit else []), *(f"mean of {name}" for name in shown)]
        mostly = [[] for _ in names]
        if story.labels[number] is not None:
            labels = group_shares(_given(plan, number), story.points[number], story.labels[number])
            mostly = [[f"{a} ({b:.0%})"] for a, b in zip(labels.main, labels.purity, strict=True)]
            head.append("mostly (purity)")
        body = [
            [names[k], f"{weights[k]:.1%}", *([f"{float(fit.effective_sizes[k]):.4g}"] if fit else [])]
            + [f"{value:.4g}" for value in means[k, :6]]
            + mostly[k]
            for k in np.argsort(-weights, kind="stable")[:_MOST_ROWS]
        ]
        more = f", the first 6 of {len(features)} features" if len(features) > 6 else ""
        parts.append(table(f"Components of {title}{more}", head, body, numbers=tuple(range(1, len(head)))))
    return Section("data", "Data and fits", parts)


def _of(fit: Fit | None, value: Any) -> str:
    return "unknown" if fit is None else value(fit)


def _plan(story: Story) -> Section:
    plan, names = story.plan, story.names
    weights = np.asarray(plan.weights, np.float64)
    chart = charts.sankey(weights, names, story.colors, _LEAST)
    described = (
        f"Flow chart from {len(names[0])} components of {story.titles[0]} to {len(names[1])} of {story.titles[1]}; "
        "the table below has its numbers."
    )
    caption = (
        f"Components of {story.titles[0]} on the left, of {story.titles[1]} on the right, with their shares; bands are "
        "as wide as the mass that goes there. Point at a band for its numbers, drag bars to sort them. "
    )
    if None in plan.component_names:
        caption += (
            "Components on the right have the mixed color of those that they come from: equal numbers mean nothing."
        )
    found = plan.correspondences(_LEAST)
    rows = [
        (names[0][i], names[1][j], f"{w:.2%}", f"{a:.1%}", f"{b:.1%}", f"{cost:.4g}")
        for i, j, w, a, b, cost in zip(
            found.source,
            found.target,
            found.weight,
            found.share_of_source,
            found.share_of_target,
            found.cost,
            strict=True,
        )
    ]
    head = ("from", "to", "of all mass", "of source", "of target", "cost")
    said = "Who goes where; cost is the mean squared distance under the pair's coupling"
    parts = [figure("flows", chart, described, caption), table(said, head, rows[:_MOST_ROWS], numbers=(2, 3, 4, 5))]
    rest = found.dropped_weight + float(found.weight[_MOST_ROWS:].sum())
    if rest > 5e-5:
        parts.append(paragraph(f"Lighter pairs, which are not listed, have {rest:.2%} of the mass."))
    return Section("plan", "Who goes where", parts)


def _map(story: Story) -> Section:
    plan = story.plan
    mixtures = plan.source, plan.target
    sides = []
    for number, (mixture, points, spots) in enumerate(zip(mixtures, story.points, story.spots, strict=True)):
        member = np.asarray(mixture.responsibilities(points)).argmax(axis=1)
        labels = story.labels[number]
        flat = labels if labels is not None and np.ndim(labels) == 1 else None
        sides.append(charts.Side(story.titles[number], spots, member, story.names[number], flat))
    index = spread_indices(len(story.points[0]), charts.MAX_ARROWS)
    images = in_plane(story.places.of(np.asarray(plan.push_forward(story.points[0][index]))), 1)
    axes = [charts.safe(_plain(name)) for name in story.places.names]
    axes += ["source below, target above"] if len(axes) == 1 else []
    beside = figure(
        "points",
        charts.clouds(sides, story.colors, axes),
        f"Points of {story.titles[0]} and of {story.titles[1]} side by side in one frame, colored by component.",
        "Every point has the color of its likeliest component, as in the flow chart. Zoom one side, and the other "
        "follows.",
    )
    over = figure(
        "map",
        charts.arrows(sides, index, images, axes),
        f"Points of both sides over each other, with lines from {len(index)} points of {story.titles[0]} to where "
        "the map sends them.",
        f"The barycentric map of {len(index)} points: each goes to the mean of where its mass goes.",
    )
    parts = [over] if story.places.dims is not None and plan.source.dim == 1 else [beside, over]
    if story.places.dims is None:
        parts.append(
            paragraph(
                "The picture is in an embedding of its own; the plan was made in the space of the data. An image "
                "stands among the points that are nearest to it there, so that distances in the picture say little."
            )
        )
    elif plan.source.dim > 2:
        parts.append(paragraph(f"Two of {plan.source.dim} dimensions are shown; the plan is made in all of them."))
    if not all(story.given):
        parts.append(paragraph("Points that were not given are drawn from the fitted mixtures."))
    return Section("map", "The map", parts)


def in_plane(places: np.ndarray, level: int) -> np.ndarray:
    """Places on the line at a height of their own, so that both sides can be told apart; others as they are."""
    if places.shape[1] == 2:
        return places
    return np.column_stack([places[:, 0], np.full(len(places), float(level))])


def _plain(name: str) -> str:
    """Without the marks of mathematics."""
    return name.replace("\\$", "\0").replace("$", "").replace("_{", "").replace("}", "").replace("\0", "$")


def _labels(story: Story) -> Section:
    plan, (first, second) = story.plan, story.labels
    found = plan.transfer(first, *story.points)
    names = [str(name) for name in found.names]
    shares = group_shares(_given(plan, 0), story.points[0], first).shares
    before = np.asarray(_given(plan, 0).weights, np.float64) @ shares
    main = found.component_probabilities.argmax(axis=1)
    rows = []
    for k, name in enumerate(names):
        mine = [f"{story.names[1][j]} ({found.purity[j]:.0%})" for j in np.flatnonzero(main == k)]
        rows.append((name, f"{before[k]:.1%}", f"{found.proportions[k]:.1%}", ", ".join(mine) or "none"))
    columns = "label", f"share in {story.titles[0]}", f"share found in {story.titles[1]}", "main label of (purity)"
    parts = [
        paragraph(
            f"Labels known in {story.titles[0]} are carried to {story.titles[1]} through the components: what a "
            "component of 60% purity says is true of six points in ten."
        ),
        table("Labels carried over", columns, rows, numbers=(1, 2)),
    ]
    if second is not None:
        parts += _flows(story)
    return Section("labels", "Labels", parts)


def _flows(story: Story) -> list[str]:
    """Mass from label to label, where labels are not the components themselves."""
    plan = story.plan
    sides = zip(plan.component_names, story.labels, strict=True)
    known = [own is not None and np.ndim(labels) == 1 and set(own) == set(map(str, labels)) for own, labels in sides]
    if all(known):
        return [paragraph("The labels are the components: flows between them are those of the chart above.")]
    groups = [
        None if known[side] else group_shares(_given(plan, side), points, labels)
        for side, (points, labels) in enumerate(zip(story.points, story.labels, strict=True))
    ]
    flows = plan.group_flows(*groups)
    own = [story.names[side] if group is None else group.names for side, group in enumerate(groups)]
    order = [[name for name in flows.names if name in names] for names in own]
    places = [[flows.names.index(name) for name in names] for names in order]
    mass = flows.couplings[0][np.ix_(*places)]
    chart = charts.sankey(mass, order, charts.side_colors(order, mass), _LEAST)
    ends = f"from labels of {story.titles[0]} to labels of {story.titles[1]}"
    rows = []
    for source, target, weight, a, b, purity in zip(*list(flows.to_dict(0.005).values())[2:], strict=True):
        pure = f"{purity:.0%}" + (", blurred" if purity < words.PURE else "")
        rows.append((source, target, f"{weight:.1%}", f"{a:.1%}", f"{b:.1%}", pure))
    head = ("from", "to", "of all mass", "of source", "of target", "purity")
    said = "Flows between labels, those above 0.5% of the mass; purity of the components they are read through"
    caption = "Mass that goes from label to label. Equal names have equal colors."
    described = f"Flow chart {ends}; the table below has its numbers."
    return [figure("labels-flows", chart, described, caption), table(said, head, rows, numbers=(2, 3, 4, 5))]


def _given(plan: TransportPlan, side: int) -> Any:
    """The mixture that was given, masses and all."""
    if plan.masses is not None:
        return (plan.masses.source, plan.masses.target)[side]
    return (plan.source, plan.target)[side]


def _checks(story: Story) -> Section:
    rows = [(subject, mark(kind), sentence) for kind, subject, sentence in words.findings(story.plan)]
    for title, fit in zip(story.titles, story.fits, strict=True):
        if fit is not None:
            few = int(np.sum(fit.undetermined))
            kind = "look" if few or not fit.converged else "good"
            sentence = (
                f"EM {'has converged' if fit.converged else 'has NOT converged'} after {int(fit.num_steps)} steps."
            )
            if not int(fit.num_steps) and fit.names is not None:
                sentence = "Its components are the labeled groups themselves."
            if few:
                sentence += f" Components with fewer points than parameters: {few}; there the prior speaks. Fit fewer."
            rows.append((f"Fit of {title}", mark(kind), sentence))
    parts = [table("What was checked", ("check", "finding", "in words"), rows)]
    for found in story.checks:
        parts += [f"<h3>{type(found).__name__}</h3>", code(found.summary())]
    if not story.checks:
        parts.append(
            paragraph(
                "Not checked here, because it takes refits: how far the map moves when the data are disturbed, and "
                "what it hangs on. omt.diagnostics.stability and omt-expfam diagnose do that."
            )
        )
    return Section("checks", "Can it be trusted", parts)


def _choices(story: Story) -> Section:
    head = ("regularization", "value", "rule", "what it does")
    said = "Regularizations, in squared units of the data"
    rows = words.regularization(story.plan)
    parts = [paragraph(words.chosen(story.plan)), table(said, head, rows, numbers=(1,))]
    parts += [paragraph(note) for note in story.notes]
    return Section("choices", "How it was chosen", parts)


def _again(story: Story) -> Section:
    version = omt_expfam.__version__
    versions = [("omt-expfam", version), *((name, metadata.version(name)) for name in ("jax", "numpyro", "numpy"))]
    versions.append(("Python", platform.python_version()))
    parts = []
    if story.call is not None:
        parts += ["<h3>The call</h3>", code(story.call)]
    parts += [
        "<h3>The plan in a line</h3>",
        code(repr(story.plan)),
        table("Versions", ("package", "version"), versions),
        "<h3>How to cite</h3>",
        paragraph("Please cite the paper whose method this is, and the software:"),
        paragraph(CITATION),
        paragraph(SOFTWARE.format(version=version)),
        code(BIBTEX.format(version=version)),
    ]
    return Section("again", "To reproduce and to cite", parts)
