"""Features that a group penalty selects: proximal steps against other ways to the minimum, and the maps that follow."""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize

import omt_expfam as omt
from omt_expfam import plot
from omt_expfam._potentials.proximal import at_rest, descend, Grouped, shrunken, slopes_at_rest

NUM, DIM = 700, 12
MOVED = np.array([2, 5, 9])
NAMES = [f"gene {j}" for j in range(DIM)]


def response(x):
    """A shift that depends on the value, a shift, and a change of scale alone."""
    image = x.copy()
    image[:, 2] += 1.5 + 0.3 * np.tanh(x[:, 2])
    image[:, 5] -= 0.8
    image[:, 9] = 1.8 * x[:, 9]
    return image


def samples(seed=0):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((NUM, 3)) @ (0.4 * mixing()) + rng.standard_normal((NUM, DIM)) for _ in range(2))
    return x.astype(np.float32), response(y).astype(np.float32)


def mixing():
    """Of three factors, so that features that stay are correlated with those that move."""
    return np.random.default_rng(9).standard_normal((3, DIM))


def fitted(sparsity, **settings) -> Any:
    x, y = samples()
    given = {"feature_names": NAMES, "progress": False} | settings
    return omt.fit_brenier(jax.random.key(0), x, y, sparsity=sparsity, **given)


@pytest.fixture(scope="module")
def fit():
    return fitted(omt.GroupPenalty(0.3, num_resamples=4))


# -- proximal steps ---------------------------------------------------------------------------------------------------


def test_shrunken_rows_are_the_proximal_points():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((5, 3)).astype(np.float32)
    found = np.asarray(jax.jit(shrunken)(rows, np.float32(1.2)))
    for row, one in zip(rows.astype(float), found, strict=True):
        goal = lambda z, row=row: np.sum((z - row) ** 2) / 2 + 1.2 * np.linalg.norm(z)  # noqa: E731
        best = scipy.optimize.minimize(goal, row / 2, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x
        np.testing.assert_allclose(one, best, atol=1e-4)
    assert (found == 0).all(axis=1).any()


def test_steps_without_a_network_minimize_a_penalized_quadratic():
    """Coordinates are then apart, and each has two numbers: against SciPy's minimum of the closed form."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 256, 8)).astype(np.float32)
    y[:, 0] = 1.7 * y[:, 0]
    y[:, 1] += 0.9
    y[:, 2] = 0.6 * y[:, 2] - 0.5
    share, strength = np.full(256, 1 / 256, np.float32), 0.25
    start = Grouped(np.zeros((8, 2), np.float32), np.zeros(0, np.float32))
    found = descend(start, x, y, share, share, y, np.float32(strength))
    rest = np.sqrt(0.95)
    for j in range(8):
        first, second = x[:, j].astype(float), y[:, j].astype(float)

        def goal(vector, first=first, second=second):
            slope = (rest + vector[0]) ** 2 + 0.05
            dual = np.mean(slope * first**2 / 2 + vector[1] * first) + np.mean((second - vector[1]) ** 2) / (2 * slope)
            return dual + strength * np.linalg.norm(vector)

        starts = [[0.0, 0.0], [0.3, 0.3], [-0.3, -0.3], [0.1, second.mean() - first.mean()]]
        tries = [scipy.optimize.minimize(goal, one, method="Nelder-Mead", options={"xatol": 1e-6}) for one in starts]
        best = min(tries, key=lambda one: one.fun)
        np.testing.assert_allclose(found.numbers.rows[j], best.x, atol=0.01)
    np.testing.assert_array_equal(np.any(np.asarray(found.numbers.rows) != 0, axis=1), np.arange(8) < 3)


def celu(z):
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def value(rows, shifts, x):
    """The potential, written out."""
    squares, slopes = np.split(rows[:, 2:], 2, axis=1)
    quadratic = np.sum(((np.sqrt(0.95) + rows[:, 0]) ** 2 + 0.05) * x**2, axis=1) / 2
    return quadratic + x @ rows[:, 1] + np.mean(celu((x @ squares) ** 2 + x @ slopes + shifts), axis=1)


def test_conditions_of_a_minimum_hold_with_the_network():
    """Derivatives by differences, at conjugate points by SciPy; of coordinates that stay, without having seen them."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 64, 10))
    y[:, 0] = y[:, 0] + 1.2 + 0.5 * np.tanh(y[:, 0])
    y[:, 1] = 1.5 * y[:, 1] - y[:, 0] / 2
    x, y = x.astype(np.float32), y.astype(np.float32)
    strength, share = 0.3, np.full(64, 1 / 64, np.float32)
    start = at_rest(rng, 8)
    start.rows[:, 2:] = 0.3 * rng.standard_normal(start.rows[:, 2:].shape)
    found = descend(start, x[:, :8], y[:, :8], share, share, y[:, :8], np.float32(strength))
    rows, shifts = (np.asarray(part, np.float64) for part in found.numbers)
    # Two more coordinates, at rest.
    rows = np.concatenate([rows, np.zeros((2, rows.shape[1]))])

    def conjugate(point):
        goal = lambda z: (value(rows, shifts, z[None])[0] - z @ point, None)[0]  # noqa: E731
        return scipy.optimize.minimize(goal, point, method="BFGS", options={"gtol": 1e-6}).x

    back = np.array([conjugate(point) for point in y.astype(float)])
    np.testing.assert_allclose(back[:, :8], found.conjugates, atol=0.02)

    def slope(j):
        parts = np.zeros(rows.shape[1])
        for k in range(rows.shape[1]):
            step = np.zeros_like(rows)
            step[j, k] = 1e-4
            ends = [
                np.mean(value(rows + s * step, shifts, x)) - np.mean(value(rows + s * step, shifts, back))
                for s in (1, -1)
            ]
            parts[k] = (ends[0] - ends[1]) / 2e-4
        return parts

    length = np.linalg.norm(rows, axis=1)
    assert 2 <= np.sum(length > 0) <= 6
    for j in range(10):
        if length[j] > 0:
            np.testing.assert_allclose(np.linalg.norm(slope(j) + strength * rows[j] / length[j]), 0, atol=0.03)
        else:
            assert np.linalg.norm(slope(j)) < 1.1 * strength
    told = slopes_at_rest(x, y, share, share, np.asarray(found.of_x), np.asarray(found.of_y))
    np.testing.assert_allclose(told[8:], [np.linalg.norm(slope(j)) for j in (8, 9)], atol=0.01)


# -- selection --------------------------------------------------------------------------------------------------------


def test_features_that_move_are_found_and_others_stay_exactly(fit):
    x, _ = samples()
    images, truth = np.asarray(fit.map.push_forward(x)), response(x)
    np.testing.assert_array_equal(np.flatnonzero(np.any(images != x, axis=0)), MOVED)
    np.testing.assert_array_equal(np.flatnonzero(fit.features.selected), MOVED)
    assert np.sum((images - truth) ** 2) < 0.02 * np.sum((truth - x) ** 2)
    # Without the penalty: as if they had been given.
    np.testing.assert_array_equal(fitted(omt.Features(MOVED.tolist())).map.push_forward(x), images)


def test_the_path_goes_from_nothing_to_the_strength(fit):
    path = fit.path
    assert fit.strength == pytest.approx(0.3)
    assert float(path.strength[-1]) == pytest.approx(0.3)
    np.testing.assert_array_equal(np.asarray(path.moved)[[0, -1]], [0, 3])
    assert (np.diff(path.strength) < 0).all()
    assert (np.diff(path.moved) >= 0).all()
    assert (np.diff(path.spa) >= 0).all()
    assert (np.diff(path.err) <= 0).all()
    assert (np.asarray(path.error) < 0.1).all()
    np.testing.assert_allclose([path.spa[0], path.err[0]], [0, 1], atol=1e-6)
    # The largest strength is just above that of the feature with the largest change, in its standard deviations.
    x, y = (side.astype(float) for side in samples())
    size = np.sqrt((x.var(axis=0) + y.var(axis=0)) / 2)
    mean = (y.mean(axis=0) - x.mean(axis=0)) / size
    spread = (y.var(axis=0) - x.var(axis=0)) / size**2
    assert float(path.strength[0]) == pytest.approx(np.hypot(mean, np.sqrt(0.95) * spread).max(), rel=0.15)
    assert len(plot.strengths(fit).collections) == 2


def test_halves_of_the_points_say_how_certain_features_are(fit):
    frequency = np.asarray(fit.features.frequency)
    np.testing.assert_array_equal(frequency[MOVED], 1)
    assert frequency.sum() < 4
    rows = repr(fit.features).splitlines()
    assert rows[0] == "3 of 12 features may move"
    assert "no test" in rows[2]
    assert "strength 0.3" in repr(fit)


def test_extreme_strengths_select_nothing_or_everything():
    x, _ = samples()
    nothing, everything = fitted(omt.GroupPenalty(50.0)), fitted(omt.GroupPenalty(0.0, num_resamples=2))
    np.testing.assert_array_equal(nothing.map.push_forward(x), x)
    assert not np.asarray(nothing.features.selected).any()
    assert np.asarray(everything.features.selected).all()
    assert everything.strength == 0


@pytest.mark.parametrize("most", [1, 2.5])
def test_no_more_features_are_selected_than_may_be(most):
    found = fitted(omt.GroupPenalty(), max_moved=most)
    assert found.converged
    assert np.sum(found.features.selected) == int(most)
    assert set(np.flatnonzero(found.features.selected)) < set(MOVED)
    assert found.strength > 0.3
    accepted = np.asarray(found.path.accepted)
    np.testing.assert_array_equal(accepted, np.asarray(found.path.moved) <= most)


def test_points_without_weight_count_for_nothing(fit):
    x, y = samples()
    weight = np.r_[np.ones(NUM), np.zeros(30)]
    more = np.concatenate([x, np.full((30, DIM), 40, np.float32)])
    found: Any = omt.fit_brenier(jax.random.key(0), more, y, sparsity=omt.GroupPenalty(0.3), source_weight=weight)
    np.testing.assert_array_equal(found.features.selected, fit.features.selected)
    np.testing.assert_allclose(found.features.mean, fit.features.mean, atol=0.03)


def test_files_keep_the_path(tmp_path, fit):
    omt.save(tmp_path / "fit.omt", fit)
    again = omt.load(tmp_path / "fit.omt")
    np.testing.assert_array_equal(again.path.moved, fit.path.moved)
    assert repr(again) == repr(fit)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: omt.GroupPenalty(-0.1), "`strength` must be a finite number at least 0; got -0.1"),
        (lambda: omt.GroupPenalty(0.1, num_resamples=-1), "`num_resamples` must be at least 0; got -1"),
        (lambda: fitted(omt.GroupPenalty()), "`strength` of a GroupPenalty must be given where `max_moved` is not"),
        (
            lambda: fitted(omt.GroupPenalty(), max_moved=0.5),
            "`max_moved` must be at least 1 with a GroupPenalty; got 0.5",
        ),
        (lambda: fitted(omt.GroupPenalty(), max_moved=0), "`max_moved` must be a finite number greater than 0; got 0"),
        (lambda: fitted(omt.GroupPenalty(), max_moved=12), "`max_moved` must be less than the 12 coordinates"),
        (lambda: fitted(omt.GroupPenalty), "`sparsity` must be L1, STVS, .* GroupPenalty, Features or None; got Group"),
        (
            lambda: fitted(omt.GroupPenalty(1.0), num_target_members=1),
            "`num_target_members` must be 0 with a `sparsity`",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1
