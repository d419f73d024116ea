import jax
import numpy as np
import pytest

import omt_expfam as omt
from benchmarks.experiments import _w2_components, _w2_tables, scaling, w2
from benchmarks.harness import peers as _peers
from omt_expfam.families import Gaussian

# -- quality of maps --------------------------------------------------------------------------------------------------


@pytest.mark.loose
def test_quality_of_a_shift_against_numpy():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)).astype(np.float32)
    truth, images = 2 * x, 2 * x + np.float32(0.5)
    found = w2.quality(x, images, truth, truth[:200])
    assert found["l2_uvp"] == pytest.approx(100 * 3 * 0.25 / truth.var(axis=0).sum(), rel=1e-4)
    assert found["displacement"] == pytest.approx(((x + 0.5) ** 2).sum(axis=1).mean(), rel=1e-4)
    cosine = (x * (x + 0.5)).sum() / np.sqrt((x**2).sum() * ((x + 0.5) ** 2).sum())
    assert found["cosine"] == pytest.approx(cosine, rel=1e-4)
    # A shift of a sample is as far from it as it was moved.
    assert found["divergence"] == pytest.approx(0.75, rel=1e-3)
    exact = w2.quality(x, truth, truth, truth[:200])
    assert exact["l2_uvp"] == 0
    assert exact["divergence"] == pytest.approx(0, abs=1e-4)


def components(rng, num, dim=2):
    root = rng.standard_normal((num, dim, dim))
    return Gaussian(2 * rng.standard_normal((num, dim)), root @ np.swapaxes(root, 1, 2) + 0.2 * np.eye(dim))


def test_a_plan_is_used_by_its_maps_and_by_draws():
    rng = np.random.default_rng(0)
    sides = [omt.Mixture(rng.dirichlet(np.ones(num)), components(rng, num)) for num in (3, 4)]
    plan = omt.transport(*sides, epsilon_components=0.1, epsilon_weights=0.1)
    x = np.repeat(np.float32([[0.5, -1.0]]), 4000, axis=0)
    (first, forward, back), (second, drawn, drawn_back) = w2.ways(plan, 0)
    assert (first, second) == ("", ", drawn")
    for mean, draws in ((forward, drawn), (back, drawn_back)):
        sample = np.asarray(draws(x))
        error = sample.std(axis=0) / np.sqrt(len(x))
        assert (np.abs(sample.mean(axis=0) - np.asarray(mean(x[:1]))[0]) < 5 * error).all()
    assert len(list(w2.ways(_peers.Maps(lambda x: x, lambda y: y), 0))) == 1


def test_what_is_finished_is_kept_and_failures_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("OMT_CACHE", str(tmp_path))
    assert "no" in w2.cached("a", 1, lambda: (_ for _ in ()).throw(ValueError("no")))["error"]
    assert w2.cached("a", 1, lambda: {"value": 2}) == {"value": 2}
    assert w2.cached("a", 1, lambda: {"value": 3}) == {"value": 2}
    assert w2.cached("a", 2, lambda: {"value": 3}) == {"value": 3}


def test_tables_tell_of_missing_and_failed_cells():
    cells = [
        {
            "label": "a",
            "dim": 2,
            "rows": {"": {"e": 1.0}, ", drawn": {"e": 5.0}},
            "chosen": "3 × 3",
            "unconverged": [0, 1],
        },
        {
            "label": "a",
            "dim": 2,
            "rows": {"": {"e": 3.0}, ", drawn": {"e": 7.0}},
            "chosen": "4 × 4",
            "unconverged": [1, 1],
        },
        {"label": "b", "dim": 4, "error": "no"},
    ]
    header, rows = _w2_tables.wide(cells, [2, 4], {"e": "e, "})
    assert header == ["method", "seeds", "e, d = 2", "e, d = 4"]
    assert rows == [["a", "2", "2 ± 1.4", ""], ["a, drawn", "2", "6 ± 1.4", ""], ["b", "0", "", "failed"]]
    assert _w2_tables.choices(cells, [2, 4]) == [["a", "3 × 3 (1), 4 × 4 (1)", "", "1 of 2"]]


# -- where the error comes from ---------------------------------------------------------------------------------------


def test_best_blend_finds_blends_and_maps_of_plans():
    rng = np.random.default_rng(0)
    sides = [omt.Mixture(np.ones(3) / 3, components(rng, 3)) for _ in range(2)]
    x = rng.standard_normal((500, 2)).astype(np.float32)
    shares = np.asarray(sides[0].responsibilities(x), np.float64)
    maps = rng.standard_normal((3, 3, 2))
    truth = sum(shares[:, [k]] * (np.c_[x, np.ones(500)] @ maps[k]) for k in range(3))
    best = _w2_components.best_blend(shares, x.astype(np.float64), truth)
    # Directions in which the features hardly vary are left out.
    np.testing.assert_allclose(best(shares, x), truth, atol=0.02)
    # The barycentric map of a plan is one of them.
    images = np.asarray(omt.transport(*sides, epsilon_components=0.1, epsilon_weights=0.1).push_forward(x), np.float64)
    found = _w2_components.best_blend(shares, x.astype(np.float64), images)(shares, x)
    np.testing.assert_allclose(found, images, atol=0.02)


def test_lost_variance_is_the_mean_conditional_variance():
    rng = np.random.default_rng(0)
    sides = [omt.Mixture(rng.dirichlet(np.ones(num)), components(rng, num)) for num in (2, 4)]
    plan = omt.transport(*sides, epsilon_components=0.5, epsilon_weights=0.5)
    x, y = (np.asarray(v) for v in plan.sample_joint(jax.random.key(0), 40_000))
    spread = np.trace(np.asarray(plan.conditional_covariance(x)), axis1=1, axis2=2).mean()
    lost = _w2_components.lost_variance(np.asarray(plan.push_forward(x)), y)
    assert lost == pytest.approx(100 * spread / y.var(axis=0).sum(), abs=1.0)


# -- scaling ----------------------------------------------------------------------------------------------------------


def test_crossover_of_powers():
    sizes = np.array([100, 1000, 10_000])
    ours, theirs = [(n, 3e-3 * n**0.5) for n in sizes], [(n, 1e-6 * n**2) for n in (150, 500, 4000)]
    where, num = scaling.crossover(ours, theirs)
    assert where == "at"
    assert num == pytest.approx(3000 ** (1 / 1.5))
    assert scaling.crossover(theirs, ours)[0] == "below"
    assert scaling.crossover([(n, 1.0) for n in sizes], [(n, 0.5) for n in sizes]) == ("above", pytest.approx(10_000))
    assert scaling.crossover([(n, 0.1) for n in sizes], theirs[1:])[0] == "below"


def test_draws_of_a_side_have_its_moments():
    points = scaling.Points(3)
    means, roots = points._laws[1]
    draws = points.draw(1, 50_000).astype(float)
    covariance = np.cov(means.T, bias=True) + np.mean(roots @ np.swapaxes(roots, 1, 2), axis=0)
    np.testing.assert_allclose(draws.mean(axis=0), means.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.25)
