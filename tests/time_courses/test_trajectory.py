import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import PathPatch

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian, Laplace, SphericalGaussian

EPSILON = {"epsilon_components": 0.05, "epsilon_weights": 0.4}
GROWTH = [[1.0, 3.0], [2.0, 1.0, 0.5]]


def mixture_at(time, num, family=Gaussian):
    rng = np.random.default_rng(time)
    mean = np.stack([np.linspace(-3, 3, num), np.full(num, 2.0 * time) + np.sin(np.arange(num))], axis=1)
    shape = np.tile(0.2 * np.eye(2), (num, 1, 1)) if family is Gaussian else np.full((num, 2), 0.3)
    return omt.Mixture(rng.dirichlet(np.full(num, 3.0)), family(mean, shape))


@pytest.fixture(scope="module")
def courses():
    """Without and with growth."""
    with jax.enable_x64(True):
        mixtures = [mixture_at(time, num) for time, num in enumerate((2, 3, 4))]
        plain = omt.trajectory(mixtures, times=[0, 1, 3], **EPSILON)
        return plain, omt.trajectory(mixtures, times=[0, 1, 3], growth=GROWTH, **EPSILON)


def chain(course, grown):
    """The joint law of the components at three times, summed up element by element from the definition."""
    a = [np.asarray(m.weights) for m in course.mixtures]
    omega = [np.asarray(plan.weights) for plan in course.plans]
    joint = np.einsum("ij,jk->ijk", omega[0], omega[1] / omega[1].sum(1, keepdims=True))
    if grown:
        # Mass at time 1 grows once more, by the mass that leaves each component over what it weighs.
        joint = joint * (omega[1].sum(1) / a[1])[None, :, None]
    return joint


# -- composition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grown", [False, True])
def test_couplings_compose_and_conserve_mass(courses, grown, x64):
    course = courses[grown]
    joint, found = chain(course, grown), np.asarray(course.coupling(0, 2))
    np.testing.assert_allclose(found, joint.sum(1), rtol=1e-9)
    np.testing.assert_allclose(found.sum(0), course.mixtures[2].weights, atol=1e-9)
    np.testing.assert_allclose(found.sum(1) / course.mixtures[0].weights, course.growth_between(0, 2), rtol=1e-9)
    np.testing.assert_allclose(course.descendants(0, 2), found / found.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(course.ancestors(0, 2), found / found.sum(0), rtol=1e-7)
    np.testing.assert_allclose(course.coupling(1, 2), course.plans[1].weights, rtol=1e-9)
    if not grown:
        np.testing.assert_allclose(course.growth_between(0, 2), 1.0, rtol=1e-9)


def test_growth_enters_as_more_mass_of_the_source(courses, x64):
    plain, grown = courses
    for step, factor in enumerate(GROWTH):
        weights = np.asarray(plain.mixtures[step].weights) * factor
        source = omt.Mixture(weights / weights.sum(), plain.mixtures[step].components)
        plan = omt.transport(source, plain.mixtures[step + 1], **EPSILON)
        np.testing.assert_allclose(grown.plans[step].weights, plan.weights, rtol=1e-8)
    # Only ratios matter.
    again = omt.trajectory(plain.mixtures, growth=[5 * np.asarray(g) for g in GROWTH], **EPSILON)
    np.testing.assert_allclose(again.coupling(0, 2), grown.coupling(0, 2), rtol=1e-8)


def test_a_component_without_growth_has_no_descendants(courses, x64):
    course = omt.trajectory(courses[0].mixtures, growth=[[0.0, 1.0], [1.0, 1.0, 1.0]], **EPSILON)
    assert np.asarray(course.coupling(0, 2))[0].sum() == 0
    assert np.asarray(course.descendants(0, 1))[0].sum() == 0
    np.testing.assert_allclose(np.asarray(course.ancestors(0, 2)), [[0] * 4, [1] * 4], atol=1e-9)
    assert float(course.growth_between(0, 1)[0]) == 0
    # A point of that component has no fate, and one in between survives with its probability of being in the other.
    means = np.asarray(course.mixtures[0].components.mean())
    x = np.stack([means[0] - 100 * (means[1] - means[0]), means[1], means.mean(axis=0)])
    member = np.asarray(course.mixtures[0].responsibilities(x))
    np.testing.assert_allclose(course.survival(x, 0, 2), member[:, 1], atol=1e-15)
    fates = np.asarray(course.fates(x, 0, 2))
    assert np.isnan(fates[0]).all()
    mass = np.asarray(course.coupling(0, 2))[1]
    np.testing.assert_allclose(fates[1:], np.tile(mass / mass.sum(), (2, 1)), rtol=1e-9)
    np.testing.assert_allclose(courses[1].survival(x, 0, 2), 1.0, rtol=1e-12)


def test_growth_is_found_where_the_source_is_relaxed(x64):
    """The first of three components doubles at the cost of the last, and nothing moves."""
    weights = np.array([[0.2, 0.5, 0.3], [0.4, 0.5, 0.1], [0.8, 0.2, 1e-6]])
    means = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    mixtures = [omt.Mixture(w / w.sum(), SphericalGaussian(means, np.ones(3))) for w in weights]
    course = omt.trajectory(mixtures, source_relaxation=1.0, **EPSILON)
    for step, growth in enumerate(course.growth):
        np.testing.assert_allclose(growth, mixtures[step + 1].weights / mixtures[step].weights, rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(course.coupling(0, 2).sum(0), mixtures[2].weights, atol=1e-8)
    np.testing.assert_allclose(course.fates(means[:1], 0, 2), [[1, 0, 0]], atol=0.02)
    given = omt.trajectory(mixtures, growth=course.growth, source_relaxation=1.0, **EPSILON)
    np.testing.assert_allclose(given.growth[0], course.growth[0], rtol=0.02, atol=1e-3)
    with pytest.raises(ValueError, match="`target_relaxation` must be left out"):
        omt.trajectory(mixtures, target_relaxation=1.0, **EPSILON)


def test_a_lineage_reads_both_ways(courses, x64):
    course = courses[1]
    lineage = course.lineage(1, 2)
    joint = chain(course, True)
    np.testing.assert_allclose(lineage.probabilities[0], joint[:, 2].sum(1) / joint[:, 2].sum(), rtol=1e-7)
    np.testing.assert_allclose(lineage.probabilities[1], [0, 0, 1])
    np.testing.assert_allclose(lineage.probabilities[2], joint[:, 2].sum(0) / joint[:, 2].sum(), rtol=1e-7)
    text = str(lineage).splitlines()
    assert text[0] == "component 2 at time 1"
    top = int(np.argmax(lineage.probabilities[2]))
    assert text[2].startswith(f"  to time 3: {top} ({lineage.probabilities[2][top]:.0%})")


# -- points -----------------------------------------------------------------------------------------------------------


def test_fates_and_origins_of_points_are_those_of_their_components(courses, x64):
    course = courses[1]
    x = np.array([[-3.0, 0.1], [0.2, 0.4], [3.0, 0.8]])
    member = np.asarray(course.mixtures[0].responsibilities(x))
    mass = member @ (np.asarray(course.coupling(0, 2)) / np.asarray(course.mixtures[0].weights)[:, None])
    np.testing.assert_allclose(course.fates(x, 0, 2), mass / mass.sum(1, keepdims=True), rtol=1e-9)
    y = np.asarray(course.mixtures[2].components.mean())
    member = np.asarray(course.mixtures[2].responsibilities(y))
    np.testing.assert_allclose(course.origins(y, 0, 2), member @ np.asarray(course.ancestors(0, 2)).T, rtol=1e-9)


@pytest.mark.parametrize("grown", [False, True])
def test_interpolation_meets_every_mixture(courses, grown, x64):
    course = courses[grown]
    for mixture, time in zip(course.mixtures, course.times, strict=True):
        law = course.interpolate(time, min_weight=0.0)
        assert isinstance(law, omt.Mixture)
        np.testing.assert_allclose(law.mean(), mixture.mean(), atol=1e-8)
        np.testing.assert_allclose(law.covariance(), mixture.covariance(), atol=1e-8)
    # Halfway through the second step, from 1 to 3.
    plan, growth = course.plans[1], np.asarray(course.growth[1])
    weights = np.asarray(plan.weights) / np.sqrt(growth)[:, None]
    means = [np.asarray(m.components.mean()) for m in course.mixtures[1:]]
    expected = np.einsum("ij,ijd->d", weights / weights.sum(), 0.5 * (means[0][:, None] + means[1][None]))
    np.testing.assert_allclose(course.interpolate(2.0, min_weight=0.0).mean(), expected, atol=1e-9)


@pytest.mark.parametrize("grown", [False, True])
def test_paths_have_the_law_of_every_step(courses, grown, x64):
    course, num = courses[grown], 40_000
    paths = np.asarray(course.sample_paths(jax.random.key(0), num))
    assert paths.shape == (3, num, 2)
    # Where components grow, the ancestors of the last time have the law of the grown weights.
    first = np.asarray(course.ancestors(0, 2)) @ np.asarray(course.mixtures[2].weights)
    mean = first @ np.asarray(course.mixtures[0].components.mean())
    error = 4 * paths[0].std(0) / np.sqrt(num)
    assert (np.abs(paths[0].mean(0) - mean) < error).all()
    assert (np.abs(paths[2].mean(0) - np.asarray(course.mixtures[2].mean())) < 4 * paths[2].std(0) / np.sqrt(num)).all()
    # The mean squared length of the last step is its plan's cost: exactly so, with or without growth.
    squared = ((paths[2] - paths[1]) ** 2).sum(1)
    assert abs(squared.mean() - float(course.costs[1])) < 4 * squared.std() / np.sqrt(num)


def test_laws_without_a_form_in_between_are_sampled():
    mixtures = [mixture_at(time, 2, Laplace) for time in (0, 1)]
    course = omt.trajectory(mixtures, **EPSILON)
    law = course.interpolate(0.5)
    assert isinstance(law, omt.results.Displacement)
    assert course.sample_paths(jax.random.key(0), 5).shape == (2, 5, 2)


# -- groups -----------------------------------------------------------------------------------------------------------


def test_shares_of_groups_are_counts_by_responsibility(x64):
    mixture = mixture_at(0, 3)
    x, labels = mixture.sample_with_labels(jax.random.key(0), 3000)
    kinds = np.array(["b", "a", "c"])[np.asarray(labels)]
    shares = omt.group_shares(mixture, x, kinds)
    assert shares.names == ("a", "b", "c")
    member = np.asarray(mixture.responsibilities(x))
    for column, name in enumerate(shares.names):
        expected = member[kinds == name].sum(0) / member.sum(0)
        np.testing.assert_allclose(shares.shares[:, column], expected, rtol=1e-9)
    assert shares.main == ("b", "a", "c")


def test_a_component_that_no_point_belongs_to_gets_the_shares_of_all(x64):
    mean = np.array([[0.0, 0.0], [1e6, 0.0]])
    mixture = omt.Mixture([0.5, 0.5], DiagonalGaussian(mean, np.ones((2, 2))))
    shares = omt.group_shares(mixture, np.zeros((4, 2)), ["a", "a", "a", "b"])
    np.testing.assert_allclose(shares.shares, [[0.75, 0.25]] * 2)


def test_flows_of_groups_add_up_the_flows_of_their_components(courses, x64):
    course = courses[0]
    soft = omt.results.GroupShares(("b", "c"), [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    flows = course.group_flows([["a", "b"], ["a", "b", "b"], soft])
    omega = [np.asarray(plan.weights) for plan in course.plans]
    assert flows.names == ("a", "b", "c")
    assert flows.couplings.shape == (2, 3, 3)
    np.testing.assert_allclose(flows.couplings[0, 1, 1], omega[0][1, 1:].sum())
    np.testing.assert_allclose(flows.couplings[1, 1, 1], omega[1][1:, 0].sum() + 0.5 * omega[1][1:, 1].sum())
    np.testing.assert_allclose(flows.couplings.sum((1, 2)), 1.0)
    np.testing.assert_allclose(flows.couplings.sum(1), flows.weights[1:], atol=1e-9)
    np.testing.assert_allclose(flows.transitions[0, 0], flows.couplings[0, 0] / flows.weights[0, 0], atol=1e-9)
    np.testing.assert_allclose(flows.growth[0, :2], flows.weights[1, :2] / flows.weights[0, :2])
    assert np.isnan(flows.growth[0, 2])
    assert np.isinf(flows.growth[1, 2])
    table = flows.to_dict(min_weight=1e-12)
    assert sum(w for w, t in zip(table["weight"], table["time"], strict=True) if t == 0) == pytest.approx(1)
    assert len(str(flows).splitlines()) <= 2 + len(table["weight"])
    assert flows.to_dict(min_weight=1.0)["weight"] == []


# -- keeping, drawing, refusing ---------------------------------------------------------------------------------------


def test_trajectories_are_saved(courses, tmp_path, x64):
    course = courses[1]
    flows = course.group_flows([["a", "b"], ["a", "b", "b"], ["a", "a", "b", "b"]])
    omt.save(tmp_path / "course.omt", (course, flows, course.lineage(1, 1)))
    again, same_flows, lineage = omt.load(tmp_path / "course.omt")
    assert (again.coupling(0, 2) == course.coupling(0, 2)).all()
    assert str(same_flows) == str(flows)
    assert str(lineage) == str(course.lineage(1, 1))
    assert repr(again) == "Trajectory(2 -> 3 -> 4 components in 2 dimensions, times 0 to 3)"


def test_derivatives_pass_through_the_chain(courses, x64):
    first, middle, last = courses[0].mixtures

    def fate(shift):
        moved = omt.Mixture(
            middle.weights, Gaussian(middle.components.mean() * (1 + shift), middle.components.covariance())
        )
        course = omt.trajectory([first, moved, last], epsilon_components=0.05, epsilon_weights=5.0)
        return course.coupling(0, 2)[0, 0]

    step = 1e-5
    expected = (fate(step) - fate(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(fate)(jnp.asarray(0.0)), expected, rtol=1e-4)


def test_flows_and_graphs_are_drawn(courses, x64):
    course = courses[1]
    groups = course.group_flows([["a", "b"], ["a", "b", "b"], ["a", "a", "b", "b"]])
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    omt.plot.flows(course, ax=axes[0], min_weight=0.01)
    bands = [p for p in axes[0].patches if isinstance(p, PathPatch)]
    assert len(bands) == sum(int((np.asarray(plan.weights) >= 0.01).sum()) for plan in course.plans)
    # A band ends as high as the mass that it carries.
    ends = sorted(float(p.get_path().vertices[4, 1] - p.get_path().vertices[3, 1]) for p in bands[:6])
    heaviest = max(float(w) for w in np.asarray(course.plans[0].weights).ravel())
    assert ends[-1] == pytest.approx(heaviest, rel=1e-6)
    omt.plot.flows(groups, ax=axes[1])
    assert any("→" in text.get_text() for text in axes[1].texts)
    # Times 0, 1 and 3 stand to scale.
    ticks = axes[1].get_xticks()
    assert (ticks[2] - ticks[1]) / (ticks[1] - ticks[0]) == pytest.approx(2)
    omt.plot.trajectory(course, [m.components.mean() for m in course.mixtures], ax=axes[2])
    figure.canvas.draw()
    plt.close(figure)
    with pytest.raises(ValueError, match="`names` must hold one entry per bar at each time: 2, 3, 4"):
        omt.plot.flows(course, names=[["a"]])
    plt.close("all")


def test_bad_arguments_are_named(courses, x64):
    course = courses[0]
    mixtures = course.mixtures
    with pytest.raises(ValueError, match="`mixtures` must hold at least two"):
        omt.trajectory(mixtures[:1], **EPSILON)
    with pytest.raises(TypeError, match="Mixture"):
        omt.trajectory([mixtures[0], "x"], **EPSILON)
    with pytest.raises(ValueError, match="`times` must be finite and increase"):
        omt.trajectory(mixtures, times=[0, 2, 2], **EPSILON)
    with pytest.raises(ValueError, match="`times` must hold one time per mixture, 3"):
        omt.trajectory(mixtures, times=[0, 2], **EPSILON)
    with pytest.raises(ValueError, match="`growth` must have one entry per step, 2; got 1"):
        omt.trajectory(mixtures, growth=GROWTH[:1], **EPSILON)
    with pytest.raises(ValueError, match=r"`growth\[0\]` must not be negative"):
        omt.trajectory(mixtures, growth=[[-1.0, 1.0], GROWTH[1]], **EPSILON)
    with pytest.raises(ValueError, match=r"`growth\[1\]` must have shape"):
        omt.trajectory(mixtures, growth=[GROWTH[0], [1.0]], **EPSILON)
    with pytest.raises(omt.ConvergenceError, match="From time 0 to 1: The weight coupling"):
        omt.trajectory(mixtures, epsilon_components=0.05, epsilon_weights=1e-3, max_steps=1)
    with pytest.raises(ValueError, match="`first` must be before `last`; got 1 and 1"):
        course.coupling(1, 1)
    with pytest.raises(ValueError, match="`last` must be the index of one of 3 times; got 3"):
        course.descendants(0, 3)
    with pytest.raises(ValueError, match="`component` must be below 3 at time 1; got 3"):
        course.lineage(1, 3)
    with pytest.raises(ValueError, match="`time` must lie between 0 and 3; got 3.5"):
        course.interpolate(3.5)
    with pytest.raises(ValueError, match="`groups` must have one entry per time, 3; got 1"):
        course.group_flows([["a", "b"]])
    with pytest.raises(ValueError, match=r"`groups\[1\]` must describe 3 components; got 1"):
        course.group_flows([["a", "b"], ["a"], ["a"] * 4])
    with pytest.raises(ValueError, match="`groups` must have one entry per point, 2"):
        omt.group_shares(mixtures[0], np.zeros((2, 2)), ["a"])
    with pytest.raises(ValueError, match="rows that sum to one"):
        omt.results.GroupShares(("a", "b"), [[0.5, 0.4]])
    with pytest.raises(ValueError, match="`names` must differ"):
        omt.results.GroupShares(("a", "a"), [[0.5, 0.5]])
