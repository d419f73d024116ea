"""The strength of a penalty, searched for in training: the best of a grid, or the least that a constraint takes."""

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam import plot
from tests.pictures import cut

from .test_sparsity import DIM, fitted, NUM, samples, SHIFT

# A round moves an affine map as far as it goes.
SEARCH = {"initial_steps": 100, "steps": 40, "reverting_steps": 40}
# Coordinates that move by more than .5 count.
CONSTRAINED = {"max_moved": 1.5, "moved_threshold": 0.5}


@pytest.fixture(scope="module")
def annealed():
    return fitted(omt.L1(omt.Annealing(tradeoff=0.5, **SEARCH)))


@pytest.fixture(scope="module")
def constrained():
    return fitted(omt.SmoothedL0(omt.Annealing(decay=0.8, **SEARCH), 0.5), **CONSTRAINED)


def judged(found):
    """Spa and Err, anew and of all points: relative to the shift, which is the straight line here."""
    x, y = samples()
    images = np.asarray(found.map.push_forward(x))
    rng = np.random.default_rng(5)
    directions = rng.standard_normal((DIM, 30))
    directions /= np.linalg.norm(directions, axis=0)

    def sliced(one):
        both = zip((one @ directions).T, (y @ directions).T, strict=True)
        # A second way to the same distance: by quantiles.
        levels = (np.arange(NUM) + 0.5) / NUM
        squares = [np.mean((np.quantile(a, levels) - np.quantile(b, levels)) ** 2) for a, b in both]
        return np.sqrt(np.mean(squares))

    spa = np.abs(images - x).sum(axis=1).mean() / np.abs(SHIFT).sum()
    return spa, sliced(images) / sliced(x)


def test_the_annealed_strength_is_near_the_best_of_a_grid(annealed):
    """Its Eval, within 5 % of the least of twenty fits with given strengths, and well below those of both ends."""

    def evaluation(found):
        spa, err = judged(found)
        return 0.5 * spa + 0.5 * err

    grid = [evaluation(fitted(omt.L1(float(strength)))) for strength in np.geomspace(0.02, 4, 20)]
    assert min(grid) < 0.95 * min(grid[0], grid[-1])
    assert evaluation(annealed) < 1.05 * min(grid)


def test_the_path_says_what_was_tried(annealed):
    path = annealed.path
    assert path.strength.shape == (1 + len(omt.Annealing().temperatures()),)
    best = int(np.argmin(path.evaluation(0.5)))
    assert annealed.strength == pytest.approx(float(path.strength[best]))
    assert bool(path.accepted[0])
    assert 0 < np.mean(np.asarray(path.accepted)) < 1
    # From one strength to the next by at most a factor of three.
    kept = np.maximum.accumulate(np.where(path.accepted, np.arange(len(path.strength)), 0))
    ratios = np.asarray(path.strength)[1:] / np.asarray(path.strength)[kept[:-1]]
    assert (np.abs(np.log(ratios)) <= np.log(3) + 1e-4).all()
    # The more strength, the less displacement and the farther from the target.
    assert scipy.stats.spearmanr(path.strength, path.spa).statistic < -0.7
    assert scipy.stats.spearmanr(path.strength, path.err).statistic > 0.7
    spa, err = judged(annealed)
    near = np.argsort(np.abs(np.log(np.asarray(path.strength) / annealed.strength)))[:5]
    np.testing.assert_allclose(np.median(np.asarray(path.spa)[near]), spa, atol=0.1)
    np.testing.assert_allclose(np.median(np.asarray(path.err)[near]), err, atol=0.1)
    assert annealed.num_steps > 100 + 100 + 37 * 40


def test_few_coordinates_move_where_few_may(constrained):
    """The first coordinate has to move by 2 and the second by .6: one of them may, beyond .5."""
    assert constrained.converged
    assert constrained.mean_moved <= 1.5
    assert constrained.moved[0] > 0.9
    free = fitted(None, moved_threshold=0.5)
    assert free.mean_moved > 1.5
    # It was raised, and then lowered while it could be.
    path = constrained.path
    taken = np.asarray(path.strength)[np.asarray(path.accepted)]
    assert constrained.strength >= 0.999 * taken[-1]
    assert taken[-1] <= taken.max()
    assert f"strength {constrained.strength:.4g}" in repr(constrained)


def test_every_point_may_be_constrained(constrained):
    search = omt.Annealing(decay=0.5, every_point=True, **SEARCH)
    found = fitted(omt.SmoothedL0(search, 0.5), **CONSTRAINED)
    x, _ = samples()
    count = np.sum(np.abs(np.asarray(found.map.push_forward(x)) - x) > 0.5, axis=1)
    assert count.max() <= 1
    assert np.all(np.asarray(found.path.moved) == np.round(found.path.moved))


def test_constraints_that_no_strength_meets_are_reported():
    search = omt.Annealing(max_rounds=2, initial_strength=1e-6, **SEARCH)
    with pytest.raises(omt.ConvergenceError, match="moves more coordinates than `max_moved`"):
        fitted(omt.L1(search), max_moved=0.5)
    found = fitted(omt.L1(search), max_moved=0.5, throw=False)
    assert not found.converged
    assert len(found.path.strength) == 3
    assert found.strength == pytest.approx(1e-6 * 1.5**2)


def test_a_number_is_where_the_search_starts():
    found = fitted(omt.L1(0.3), max_moved=2.5, moved_threshold=1.0, num_steps=20)
    assert float(found.path.strength[0]) == pytest.approx(0.3)


def test_files_and_pictures_have_the_path(annealed, tmp_path):
    again = omt.load(omt.save(tmp_path / "fit.omt", annealed) or tmp_path / "fit.omt", families=_families())
    for one, other in zip(jax.tree.leaves(again.path), jax.tree.leaves(annealed.path), strict=True):
        np.testing.assert_array_equal(one, other)
    ax = plot.strengths(annealed)
    assert len(ax.collections) == 2
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 1], annealed.path.err)
    assert ax.get_xscale() == "log"
    assert not cut(ax.figure)
    plt.close(ax.figure)
    with pytest.raises(ValueError, match="`fit` has no path"):
        plot.strengths(fitted(omt.L1(0.4)))


def _families():
    from .test_sparsity import Affine

    return {"Affine": Affine}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: omt.L1("much"), "`strength` must be a number, \"annealed\" or an Annealing; got 'much'"),
        (lambda: omt.Annealing(tradeoff=1.5), "`tradeoff` must be at most 1; got 1.5"),
        (lambda: omt.Annealing(decay=1.0), "`decay` must be below 1; got 1"),
        (lambda: omt.Annealing(range=1.0), "`range` must be a finite number greater than 1"),
        (lambda: omt.Annealing(steps=0), "`steps` must be at least 1"),
        (lambda: omt.Annealing(initial_strength=0.0), "`initial_strength` must be a finite number greater than 0"),
        (lambda: fitted(omt.L1(1.0), max_moved=0), "`max_moved` must be a finite number greater than 0; got 0"),
        (lambda: fitted(omt.L1(1.0), max_moved=3), "`max_moved` must be less than the 3 coordinates of a point; got 3"),
        (lambda: fitted(omt.Features([0]), max_moved=1), "`max_moved` must be None where `sparsity` selects features"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1
