"""Uniqueness, biconvexity, sensitivity and worst cases, against other algorithms, differences and closed forms."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.optimize

import omt_expfam as omt
from omt_expfam import diagnostics
from omt_expfam.diagnostics import _uniqueness
from omt_expfam.families import DiagonalGaussian, Gaussian, Laplace
from tests.pictures import cut
from tests.plans.test_transport import BruteForce, random_pair

EPSILON = {"epsilon_components": 0.4, "epsilon_weights": 0.5}


@pytest.fixture(scope="module")
def pair():
    with jax.enable_x64(True):
        return random_pair(1, k0=3, k1=4, dim=2)


def tied_pair(tilt=0.0):
    """Two components on one axis, two on the other: every pair costs the same, or nearly."""
    covariance = np.tile(0.1 * np.eye(2), (2, 1, 1))
    angle = np.pi / 2 - tilt
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.cos(angle), -np.sin(angle)]])
    return (
        omt.Mixture([0.5, 0.5], Gaussian(np.array([[1.0, 0.0], [-1.0, 0.0]]), covariance)),
        omt.Mixture([0.5, 0.5], Gaussian(turned, covariance)),
    )


# -- uniqueness -------------------------------------------------------------------------------------------------------


def test_one_minimizer_is_reached_by_one_update_of_each_block(pair, x64):
    source, target = pair
    found = diagnostics.uniqueness(jax.random.key(3), source, target, num_starts=100, **EPSILON)
    assert found.weights.shape == (100, 3, 4)
    assert found.weights_spread < 1e-8
    assert found.objective_spread < 1e-8
    np.testing.assert_array_equal(found.updates, np.ones((100, 2)))
    # The starts differ, and each update goes down.
    assert np.ptp(np.asarray(found.objectives)[:, 0]) > 0.1
    assert np.all(np.diff(np.asarray(found.objectives), axis=1) < 1e-9)
    oracle = BruteForce(source, target, *EPSILON.values())
    np.testing.assert_allclose(found.weights[0], oracle.weights, atol=1e-9)
    np.testing.assert_allclose(found.objectives[:, -1], oracle.objective, rtol=1e-9)
    # Algorithms that know nothing of the closed form end there as well, and nowhere below.
    assert found.descent_gap < 1e-4
    assert found.descent_components_gap < 1e-3
    assert found.mirror_gap < 1e-5
    assert -1e-9 < found.lowest_excess < 1e-6
    text = found.summary()
    assert "100 starts" in text
    assert "1 of the component couplings, 1 of the weights" in text


def test_a_wrong_block_would_be_noticed(pair, monkeypatch):
    right = _uniqueness.solve_couplings
    monkeypatch.setattr(_uniqueness, "solve_couplings", lambda s, t, e, *rest: right(s, t, 2 * e, *rest))
    found = diagnostics.uniqueness(jax.random.key(0), *pair, num_starts=2, num_descents=1, **EPSILON)
    assert found.descent_components_gap > 1e-2
    assert abs(found.lowest_excess) > 1e-3


def test_without_regularization_ties_have_several_optima():
    tied = diagnostics.uniqueness(
        jax.random.key(0), *tied_pair(), num_starts=20, epsilon_components=0.1, epsilon_weights=0.0
    )
    assert tied.weights_spread == pytest.approx(0.5)
    assert tied.objective_spread < 1e-9
    assert tied.num_optima == 2
    assert np.asarray(tied.near_ties).sum() == 2
    assert np.isnan(tied.descent_gap)
    assert np.isnan(tied.lowest_excess)
    assert "2 optimal couplings or more" in tied.summary()
    regular = diagnostics.uniqueness(
        jax.random.key(0), *tied_pair(), num_starts=20, num_descents=0, epsilon_components=0.1, epsilon_weights=0.05
    )
    assert regular.num_optima == 1
    assert regular.weights_spread < 1e-8
    np.testing.assert_allclose(regular.weights, 0.25, atol=1e-9)
    assert np.asarray(regular.near_ties).sum() == 2


def test_reduced_costs_are_the_price_of_forcing_mass(pair):
    source, target = pair
    found = diagnostics.uniqueness(jax.random.key(0), source, target, num_starts=1, num_descents=0, **EPSILON)
    costs, a, b = (np.asarray(v) for v in (found.component_objectives, source.weights, target.weights))
    constraints = np.vstack([np.kron(np.eye(3), np.ones(4)), np.kron(np.ones(3), np.eye(4))[1:]])
    total = np.concatenate([a, b[1:]])

    def price(force, amount=1e-4):
        lower = np.zeros(12)
        lower[force] = amount
        bounds = list(zip(lower, [None] * 12, strict=True))
        return scipy.optimize.linprog(costs.ravel(), A_eq=constraints, b_eq=total, bounds=bounds).fun

    free = price(slice(0, 0))
    reduced = np.asarray(found.reduced_costs).ravel()
    forced = np.array([(price(k) - free) / 1e-4 for k in range(12)])
    np.testing.assert_allclose(reduced, forced, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(found.near_ties).ravel(), (reduced > 1e-9) & (reduced < 0.5))


@pytest.mark.slow
def test_uniqueness_of_other_families():
    rng = np.random.default_rng(0)
    mixtures = [omt.Mixture(w, Laplace(2 * rng.normal(size=(2, 1)), [[0.5], [0.8]])) for w in ([0.3, 0.7], [0.6, 0.4])]
    found = diagnostics.uniqueness(jax.random.key(0), *mixtures, num_starts=20, **EPSILON)
    assert found.weights_spread < 1e-8
    assert found.descent_weights.shape == (0, 2, 2)
    assert found.mirror_gap < 1e-8


# -- biconvexity ------------------------------------------------------------------------------------------------------


def test_each_block_is_strictly_convex_and_both_are_not(pair):
    found = diagnostics.biconvexity(jax.random.key(0), *pair, epsilon_components=0.05, epsilon_weights=0.05)
    assert found.strict
    assert not found.jointly_convex
    assert found.coordinates == "cross-covariances"
    assert np.all(np.asarray(found.weights_moduli) > 0)
    # Only the regularization bends the objective in its own block: the gaps are proportional to it.
    twice = diagnostics.biconvexity(jax.random.key(0), *pair, epsilon_components=0.1, epsilon_weights=0.1)
    np.testing.assert_allclose(twice.weights_gaps, 2 * found.weights_gaps, rtol=1e-7)
    np.testing.assert_allclose(twice.components_gaps, 2 * found.components_gaps, rtol=1e-7)
    # KL to a product is 1-strongly convex in total variation (Pinsker), and so in the Euclidean norm.
    assert np.asarray(found.weights_moduli).min() > 0.05
    flat = diagnostics.biconvexity(jax.random.key(0), *pair, epsilon_components=0.0, epsilon_weights=0.0)
    assert not flat.strict
    assert np.abs(np.asarray(flat.weights_gaps)).max() < float(flat.rounding)
    assert np.abs(np.asarray(flat.components_gaps)).max() < float(flat.rounding)


def test_biconvexity_of_discrete_plans():
    rng = np.random.default_rng(0)
    mixtures = [omt.Mixture(w, Laplace(2 * rng.normal(size=(2, 1)), [[0.5], [0.8]])) for w in ([0.3, 0.7], [0.6, 0.4])]
    found = diagnostics.biconvexity(jax.random.key(0), *mixtures, num_segments=20, num_points=5, **EPSILON)
    assert found.strict
    assert found.coordinates == "discrete plans"
    assert found.components_gaps.shape == (20, 3)
    assert "20 segments of discrete plans" in found.summary()


# -- sensitivity ------------------------------------------------------------------------------------------------------


def moved(mixture, weights=0.0, **steps):
    """The mixture with steps added to its weights and parameters."""
    components = mixture.components
    parameters = {"mean": np.asarray(components.mean())}
    if isinstance(components, Gaussian):
        parameters["covariance"] = np.asarray(components.covariance())
    else:
        parameters["variance"] = np.asarray(components.variance)
    values = {name: value + steps.get(name, 0.0) for name, value in parameters.items()}
    return omt.Mixture(np.asarray(mixture.weights) + weights, type(components)(**values))


def check_differences(found, source, target, side, rng):
    """Derivatives along random directions against central differences of whole transports."""
    mixture, rates = (source, found.source) if side == 0 else (target, found.target)
    for name in rates.names:
        shape = np.shape(rates.cost[name])
        step = rng.standard_normal(shape)
        step = step - step.mean() if name == "weights" else 0.1 * step
        if name == "covariance":
            step = step + np.swapaxes(step, 1, 2)
        values = []
        for sign in (1, -1):
            new = moved(mixture, **{name: sign * 1e-5 * step})
            plan = omt.transport(*((new, target) if side == 0 else (source, new)), **EPSILON)
            values.append([np.asarray(v) for v in (plan.cost, plan.weights, plan.push_forward(found.points))])
        # A step of the weights that sums to zero is the sum of its parts in the directions of the table.
        for rate, up, down in zip((rates.cost, rates.weights, rates.map), *values, strict=True):
            along = np.tensordot(np.asarray(rate[name]), step, axes=step.ndim)
            np.testing.assert_allclose(along, (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


def test_sensitivities_are_finite_differences(pair, x64):
    source, target = pair
    found = diagnostics.sensitivity(source, target, num_points=20, **EPSILON)
    rng = np.random.default_rng(0)
    for side in range(2):
        check_differences(found, source, target, side, rng)
    rows = found.ranking()
    assert len(rows) == 3 * (3 + 4)
    assert rows[0][3] == max(row[3] for row in rows)
    assert rows[0][2] in found.summary(1)
    # One parameter of one component moves the map no more than all of them together can.
    inner = [row[3] for row in rows if row[0] == "source" and row[2] != "weights"]
    assert max(inner) <= found.lipschitz * (1 + 1e-9)


@pytest.mark.slow
def test_sensitivities_of_diagonal_gaussians(pair, x64):
    source, target = (
        omt.Mixture(m.weights, DiagonalGaussian(m.components.mean(), np.diagonal(m.components.covariance(), 0, 1, 2)))
        for m in pair
    )
    found = diagnostics.sensitivity(source, target, num_points=20, **EPSILON)
    assert found.source.names == ("weights", "mean", "variance")
    check_differences(found, source, target, 0, np.random.default_rng(0))


def line_pair(source_scale, target_scale):
    """One Gaussian each on the line: T(x) = 1 + ratio (x - 0)."""
    return (
        omt.Mixture([1.0], Gaussian([[0.0]], [[[source_scale**2]]])),
        omt.Mixture([1.0], Gaussian([[1.0]], [[[target_scale**2]]])),
    )


def test_lipschitz_constant_of_one_gaussian_is_the_ratio_of_scales():
    """T' - T = -(s1 / s0) (shift + growth x / s0): s1 / s0 times the distance, over points of variance s0^2."""
    points = [[-0.5], [0.5]]
    found = diagnostics.sensitivity(
        *line_pair(0.5, 2.0), epsilon_components=0.0, epsilon_weights=0.1, points=np.array(points)
    )
    assert found.lipschitz == pytest.approx(4.0, rel=1e-6)
    np.testing.assert_allclose(np.asarray(found.source.table)[0, 1:, 0], 4.0, rtol=1e-6)


# -- worst case -------------------------------------------------------------------------------------------------------


def test_worst_case_of_one_gaussian_is_brute_force():
    """Against all shifts and growths on the circle of the given distance."""
    points = np.array([[-0.8], [-0.1], [0.2], [0.5]])
    radius = 0.2
    found = diagnostics.worst_case(
        jax.random.key(0),
        *line_pair(0.5, 2.0),
        epsilon_components=0.0,
        epsilon_weights=0.1,
        radii=[radius],
        points=points,
        num_random=10,
    )
    angle = np.linspace(0, 2 * np.pi, 20_001)[:, None]
    shift, scale = radius * np.cos(angle), 0.5 + radius * np.sin(angle)
    images = 2.0 / scale * (points[:, 0] - shift)
    largest = np.abs(images - 4.0 * points[:, 0]).mean(axis=1).max()
    assert 0.99 * largest < float(found.displacements[0]) <= largest * (1 + 1e-6)
    assert np.asarray(found.random_displacements).max() <= float(found.displacements[0])


@pytest.mark.slow
def test_worst_case_agrees_with_the_closed_form_and_keeps_its_size(pair, x64):
    source, target = pair
    found = diagnostics.worst_case(jax.random.key(0), source, target, radii=[1e-5, 0.3], num_random=20, **EPSILON)
    rates = diagnostics.sensitivity(source, target, points=found.points, **EPSILON)
    # The mean displacement is at most the root mean square, whose largest rate is known.
    rate = float(found.displacements[0] / found.radii[0])
    assert 0.5 * rates.lipschitz < rate < 1.01 * rates.lipschitz
    assert not found.discontinuous
    for r, radius in enumerate(np.asarray(found.radii)):
        between = omt.transport(source, found.mixtures[r], epsilon_components=0, epsilon_weights=0)
        distance = float(found.distances[r])
        assert np.sqrt(max(float(between.cost), 0)) <= distance * (1 + 1e-6) + 1e-7
        assert distance <= radius * (1 + 1e-6)
        plan = omt.transport(found.mixtures[r], target, **EPSILON)
        clean = omt.transport(source, target, **EPSILON)
        gap = np.asarray(plan.push_forward(found.points)) - np.asarray(clean.push_forward(found.points))
        assert np.linalg.norm(gap, axis=1).mean() == pytest.approx(float(found.displacements[r]), rel=1e-6)
        assert np.asarray(found.random_displacements)[r].max() <= float(found.displacements[r])


@pytest.mark.slow
def test_the_jump_of_the_unregularized_map_is_found_and_gone_with_regularization():
    source, target = tied_pair(tilt=1e-5)
    options = {"radii": [3e-5, 1e-3], "num_random": 10, "num_starts": 2, "epsilon_components": 0.1}
    jumping = diagnostics.worst_case(jax.random.key(1), source, target, epsilon_weights=0.0, **options)
    assert jumping.discontinuous
    # Either half of the source goes to the other side.
    assert float(jumping.displacements[0]) == pytest.approx(2.0, rel=0.05)
    assert "jumps" in jumping.summary()
    smooth = diagnostics.worst_case(jax.random.key(1), source, target, epsilon_weights=0.1, **options)
    assert not smooth.discontinuous
    assert float(smooth.displacements[0]) < 1e-2
    np.testing.assert_allclose(smooth.exponents, 1, atol=0.1)


# -- arguments, files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        ("uniqueness", {"epsilon_weights": -1.0}, "`epsilon_weights` must be a finite number at least 0"),
        ("uniqueness", {"num_starts": 0}, "`num_starts` must be at least 1"),
        ("biconvexity", {"num_points": 1}, "`num_points` must be at least 2"),
        ("biconvexity", {"epsilon_components": np.nan}, "`epsilon_components` must be a finite number"),
        ("sensitivity", {"epsilon_weights": 0.0}, "`epsilon_weights` must be a finite number greater than 0"),
        ("sensitivity", {"points": np.ones((3, 5))}, "`points` must have shape"),
        ("worst_case", {"radii": [0.1, -1.0]}, "`radii` must be positive"),
        ("worst_case", {"radii": [0.1], "num_steps": 0}, "`num_steps` must be at least 1"),
    ],
)
def test_bad_arguments_are_named(pair, call, options, message):
    function = getattr(diagnostics, call)
    key = () if call == "sensitivity" else (jax.random.key(0),)
    with pytest.raises(ValueError, match=message.replace("`", "`")):
        function(*key, *pair, **{**EPSILON, **options})


def test_bad_types_are_named(pair):
    source, target = pair
    # Here the run-time type checker may be the first to object.
    with pytest.raises(TypeError):
        diagnostics.uniqueness(jax.random.key(0), source, 3, **EPSILON)
    with pytest.raises(TypeError, match="`key` must be a random key"):
        diagnostics.worst_case(0, source, target, radii=[0.1], **EPSILON)
    laplace = omt.Mixture([1.0], Laplace([[0.0, 0.0]], [[1.0, 1.0]]))
    with pytest.raises(TypeError, match="`source` must have Gaussian components; got Laplace"):
        diagnostics.worst_case(jax.random.key(0), laplace, target, radii=[0.1], **EPSILON)
    flat = omt.Mixture([1.0], Gaussian([[0.0]], [[[1.0]]]))
    for call in (diagnostics.uniqueness, diagnostics.biconvexity):
        with pytest.raises(ValueError, match="must have the dimension of `source`, 2; got 1"):
            call(jax.random.key(0), source, flat, **EPSILON)


def test_components_without_weight():
    """No interior start has mass on them; convexity and derivatives are those of the others."""
    mean, covariance = np.array([[0.0, 0.0], [2.0, 1.0]]), np.tile(np.eye(2), (2, 1, 1))
    source, target = (omt.Mixture(w, Gaussian(mean, covariance)) for w in ([1.0, 0.0], [0.5, 0.5]))
    with pytest.raises(ValueError, match="`source` must have positive weights, as the theorem asks; component 1 has"):
        diagnostics.uniqueness(jax.random.key(0), source, target, **EPSILON)
    found = diagnostics.biconvexity(jax.random.key(0), source, target, num_segments=3, **EPSILON)
    assert np.isfinite(found.weights_gaps).all()


def test_results_are_saved(pair, tmp_path, x64):
    found = diagnostics.biconvexity(jax.random.key(0), *pair, num_segments=3, **EPSILON)
    omt.save(tmp_path / "b.omt", found)
    again = omt.load(tmp_path / "b.omt")
    assert isinstance(again, diagnostics.Biconvexity)
    np.testing.assert_array_equal(np.asarray(again.weights_gaps), np.asarray(found.weights_gaps))


# -- disturbances -----------------------------------------------------------------------------------------------------


def test_perturbations_do_what_they_say():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2)) + 3, "float32")
    keys = iter(jax.random.split(jax.random.key(0), 8))
    noisy = diagnostics.GaussianNoise(0.5)(next(keys), x, None)
    assert float(jnp.std(noisy - x)) == pytest.approx(0.5, rel=0.03)
    dropped = diagnostics.Dropout(0.25)(next(keys), x, None)
    assert float(jnp.mean(dropped == 0)) == pytest.approx(0.25, abs=0.02)
    assert bool(jnp.all((dropped == 0) | (dropped == x)))
    part = np.asarray(diagnostics.Subsampling(0.3)(next(keys), x, None))
    assert part.shape == (2800, 2)
    assert len({tuple(row) for row in part} & {tuple(row) for row in np.asarray(x)}) == 2800
    wild = diagnostics.Outliers(0.1, spread=10.0)(next(keys), x, None)
    changed = np.asarray(jnp.any(wild != x, axis=1))
    assert changed.sum() == 400
    assert np.asarray(wild)[changed].std() == pytest.approx(10, rel=0.1)
    assert diagnostics.Reseeding()(next(keys), x, None) is x
    mixture = omt.Mixture([0.5, 0.5], Gaussian([[3.0, 3.0], [30.0, 30.0]], np.tile(np.eye(2), (2, 1, 1))))
    both = jnp.concatenate([x, x + 27])
    shifted = np.asarray(diagnostics.MassShift(0.25, 0, 1)(next(keys), both, mixture))
    assert (shifted[:, 0] > 15).mean() == pytest.approx(0.625, abs=1e-3)
    sizes = [
        p.size for p in (diagnostics.GaussianNoise(0.5), diagnostics.MassShift(0.2, 0, 1), diagnostics.Reseeding())
    ]
    assert sizes == [0.5, 0.2, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diagnostics.GaussianNoise(-1.0), "`sigma` must be a finite number at least 0"),
        (lambda: diagnostics.Dropout(1.5), "`probability` must be at most 1"),
        (lambda: diagnostics.Subsampling(1.0), "`removed` must be less than 1"),
        (lambda: diagnostics.MassShift(0.1, 1, 1), "`target` must be another component than `source`"),
        (
            lambda: diagnostics.MixtureTransport(Gaussian, (2, 3, 4), epsilon_components=1.0, epsilon_weights=1.0),
            "`num_components` must be one value or a pair",
        ),
    ],
)
def test_bad_perturbations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- pictures ---------------------------------------------------------------------------------------------------------


def made_up_uniqueness():
    rng = np.random.default_rng(0)
    ends = np.stack([2 + rng.random(7), 1.5 + rng.random(7), *[np.full(7, 1.0)] * 3], axis=1)
    table = np.full((2, 3), 1 / 6)
    return diagnostics.Uniqueness(
        weights=np.tile(table, (7, 1, 1)),
        objectives=ends,
        component_objectives=table,
        updates=np.ones((7, 2), int),
        descent_weights=table[None],
        descent_component_objectives=table[None],
        descent_objectives=np.array([1 + 1e-9]),
        sample_weights=table,
        sample_objective=np.asarray(3.0),
        mirror_weights=table[None],
        mirror_objectives=np.array([3.0]),
        reduced_costs=table,
        near_ties=table > 1,
        epsilon_components=0.1,
        epsilon_weights=0.1,
    )


def test_the_histogram_shows_every_start_at_every_stage():
    panel = omt.plot.uniqueness_histogram(made_up_uniqueness(), bins=10)
    counts = [sum(bar.get_height() for bar in container) for container in panel.containers]
    assert counts == [7, 7, 7]
    assert [line.get_label() for line in panel.lines] == ["joint descents", "mirror descents"]
    # The joint descent ended 1e-9 above the minimum, mirror descent at its own.
    np.testing.assert_allclose([line.get_xdata()[0] for line in panel.lines], [-9, -16], atol=0.1)
    assert not cut(panel.figure)
    plt.close("all")


def test_the_heat_map_and_the_curve_show_the_numbers():
    table = np.arange(1.0, 13.0).reshape(2, 2, 3)
    side = diagnostics.SideSensitivity({}, {}, {}, np.asarray(2.0), table, ("weights", "mean"))
    found = diagnostics.Sensitivity(side, side, np.zeros((1, 2)), 0.1, 0.1)
    panel = omt.plot.sensitivity_map(found, side="target", quantity="cost")
    assert [text.get_text() for text in panel.texts] == ["2", "5", "8", "11"]
    assert [label.get_text() for label in panel.get_xticklabels()] == [
        "weights\nper unit of mass",
        "mean\nper unit of distance",
    ]
    assert not cut(panel.figure)
    with pytest.raises(ValueError, match='`side` must be "source" or "target"; got \'left\''):
        omt.plot.sensitivity_map(found, side="left")
    with pytest.raises(ValueError, match="`quantity` must be one of map, cost, weights; got 'mass'"):
        omt.plot.sensitivity_map(found, quantity="mass")
    radii, moved = np.array([0.1, 1.0]), np.array([0.2, 0.9])
    worst = diagnostics.WorstCase(
        radii, radii, moved, np.full((2, 3), 0.1), np.full((2, 3), 0.1), (), np.zeros((1, 2)), 0.1
    )
    panel = omt.plot.worst_case_curve(worst, color="black")
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), moved)
    assert panel.lines[1].get_color() == "black"
    assert not cut(panel.figure)
    np.testing.assert_allclose(worst.exponents, [np.log10(0.9 / 0.2)])
    plt.close("all")
