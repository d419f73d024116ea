import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam.families import Gaussian

EPSILON = {"epsilon_components": 0.01, "epsilon_weights": 0.01}


def bent(num=1200, seed=0):
    """One normal law and its image under the gradient of a convex function that no affine map resembles."""
    rng = np.random.default_rng(seed)
    x, other = rng.standard_normal((2, num, 2)).astype(np.float32)
    return x, (other + 2.0 * np.sign(other)).astype(np.float32)


@pytest.fixture(scope="module")
def selection():
    x, y = bent()
    # Four normal laws describe the target perfectly, and one describes the source.
    return omt.select_plan(jax.random.key(0), x, y, Gaussian, [(1, 4), (8, 4), 8], **EPSILON)


def test_many_source_components_win_where_the_likelihood_says_one(selection):
    x, y = bent()
    by_likelihood = omt.select_num_components(jax.random.key(0), x, Gaussian, [1, 8])
    assert by_likelihood.num_components == 1
    assert selection.num_components != (1, 4)
    assert selection.candidates == ((1, 4), (8, 4), (8, 8))
    assert selection.scores[0] > 2 * selection.scores.min()
    # The choice holds against the true map on new points.
    test = bent(seed=1)[0]
    truth = test + 2.0 * np.sign(test)
    chosen = omt.metrics.l2_uvp(selection.plan.push_forward(test), truth)
    fits = [omt.fit(jax.random.key(i), v, Gaussian, k).mixture for i, (v, k) in enumerate(((x, 1), (y, 4)))]
    few = omt.metrics.l2_uvp(omt.transport(*fits, **EPSILON).push_forward(test), truth)
    assert float(chosen) < 0.5 * float(few)


def test_the_plan_is_that_of_all_points_with_the_chosen_numbers(selection):
    x, y = bent()
    assert (selection.plan.source.num_components, selection.plan.target.num_components) == selection.num_components
    np.testing.assert_allclose(selection.plan.source.mean(), x.mean(0), atol=1e-3)
    np.testing.assert_allclose(selection.plan.target.mean(), y.mean(0), atol=1e-3)
    # Images of no map are closer to the target than its own points, up to noise.
    assert 0 <= selection.floor < selection.scores.min()


def test_scores_are_divergences_over_splits_and_can_judge_draws(selection):
    x, y = bent(400)
    found = omt.select_plan(jax.random.key(0), x, y, Gaussian, [(1, 4)], use="sample", num_splits=3, **EPSILON)
    # Draws have the target's law however few the source components are; the map has not.
    assert found.scores[0] < 0.5 * selection.scores[0]
    assert found.standard_errors[0] > 0
    assert np.isnan(selection.standard_errors).all()
    text = str(found)
    assert "<- chosen" in text
    assert "+-" in text
    assert "target's own" in text


def test_a_candidate_that_fails_is_named_and_not_taken():
    x, y = bent(300)
    options = {"fit_options": {"max_steps": 5, "tolerance": 1e-9}}
    found = omt.select_plan(jax.random.key(0), x, y, Gaussian, [1, 6], **options, **EPSILON)
    assert found.num_components == (1, 1)
    assert list(found.failures) == [(6, 6)]
    assert "failed: EM stopped" in str(found)
    with pytest.raises(omt.ConvergenceError, match="Every candidate failed. EM stopped"):
        omt.select_plan(jax.random.key(0), x, y, Gaussian, [6], **options, **EPSILON)


def test_bad_arguments_are_named():
    x, y = bent(40)
    with pytest.raises(ValueError, match='`use` must be "mean" or "sample"'):
        omt.select_plan(jax.random.key(0), x, y, Gaussian, [1], use="map", **EPSILON)
    with pytest.raises(ValueError, match="`held_out` must lie between 0 and 1; got 1"):
        omt.select_plan(jax.random.key(0), x, y, Gaussian, [1], held_out=1.0, **EPSILON)
    with pytest.raises(ValueError, match="`held_out` = 0.01 leaves nothing"):
        omt.select_plan(jax.random.key(0), x, y, Gaussian, [1], held_out=0.01, **EPSILON)
    with pytest.raises(ValueError, match="`candidates` must hold at least one"):
        omt.select_plan(jax.random.key(0), x, y, Gaussian, [], **EPSILON)
