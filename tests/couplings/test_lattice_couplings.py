"""Couplings of counts, against linear programs, merged quantiles and dense solves on wider windows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from numpyro.distributions import constraints
from scipy.optimize import linprog

import omt_expfam as omt
from omt_expfam._couplings.interface import select_pairs
from omt_expfam._couplings.lattice import windows
from omt_expfam._couplings.lattice.couplings import solve_lattice_couplings
from omt_expfam.families import Binomial, Gaussian, NegativeBinomial, Poisson
from tests import lines

# Two components in two dimensions on either side, and the same laws by SciPy.
RATES = np.array([[1.5, 4.0], [6.0, 0.4]])
CONCENTRATIONS = np.array([[0.8, 3.0], [2.0, 1.5]])
PROBABILITIES = np.array([[0.2, 0.6], [0.7, 0.45]])


def _sides():
    poisson = Poisson(RATES), [[st.poisson(r) for r in row] for row in RATES]
    binomial = Binomial(PROBABILITIES, 7), [[st.binom(7, p) for p in row] for row in PROBABILITIES]
    means = np.array([[3.0, 2.0], [0.5, 8.0]])
    laws = st.nbinom(CONCENTRATIONS, CONCENTRATIONS / (means + CONCENTRATIONS))
    rows = [[st.nbinom(*(v[k, c] for v in laws.args)) for c in range(2)] for k in range(2)]
    return {"poisson": poisson, "binomial": binomial, "negative": (NegativeBinomial(means, CONCENTRATIONS), rows)}


def _table(law, tail=1e-14):
    """Numbers that hold all but next to nothing, and their probabilities."""
    x = np.arange(int(law.isf(tail)) + 2)
    mass = law.pmf(x)
    return x[mass > 1e-40].astype(float), mass[mass > 1e-40] / mass[mass > 1e-40].sum()


def _merged(x, a, y, b):
    """The monotone coupling, one step after the other."""
    plan, i, j, left, right = np.zeros((len(x), len(y))), 0, 0, a[0], b[0]
    while i < len(x) and j < len(y):
        mass = min(left, right)
        plan[i, j] += mass
        left, right = left - mass, right - mass
        if left <= right and i + 1 <= len(x):
            i += 1
            left = a[i] if i < len(x) else 0.0
        else:
            j += 1
            right = b[j] if j < len(y) else 0.0
    return plan


def _linear_program(x, a, y, b):
    cost = (x[:, None] - y[None]) ** 2
    rows = np.kron(np.eye(len(x)), np.ones(len(y)))
    columns = np.kron(np.ones(len(x)), np.eye(len(y)))
    return linprog(cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=np.concatenate([a, b])[:-1]).fun


@pytest.mark.parametrize(("left", "right"), [("poisson", "negative"), ("binomial", "poisson")])
def test_without_regularization_quantiles_are_coupled(left, right, x64):
    (source, own), (target, other) = _sides()[left], _sides()[right]
    couplings = solve_lattice_couplings(source, target, jnp.asarray(0.0))
    points = jnp.asarray([[2.0, 1.0], [5.0, 0.0]])
    expected = np.zeros((2, 2))
    for i in range(2):
        for j in range(2):
            costs, kl, means = [], [], []
            for c in range(2):
                x, a, y, b = *_table(own[i][c]), *_table(other[j][c])
                plan = _merged(x, a, y, b)
                costs.append((plan * (x[:, None] - y[None]) ** 2).sum())
                used = plan > 0
                kl.append((plan[used] * np.log(plan[used] / (a[:, None] * b[None])[used])).sum())
                means.append((plan @ y / plan.sum(1))[np.asarray(points)[:, c].astype(int)])
            expected[i, j] = sum(costs)
            assert abs(couplings.costs[i, j] - sum(costs)) <= couplings.errors[i, j] + 1e-10
            np.testing.assert_allclose(couplings.kl[i, j], sum(kl), rtol=1e-6)
            index = jnp.full(2, i), jnp.full(2, j)
            np.testing.assert_allclose(couplings.conditional_mean(points, *index), np.stack(means, 1), rtol=1e-7)
    x, a, y, b = *_table(own[0][0], 1e-5), *_table(other[0][0], 1e-5)
    program = _linear_program(x, a, y, b)
    np.testing.assert_allclose(program, (_merged(x, a, y, b) * (x[:, None] - y[None]) ** 2).sum(), rtol=1e-9)


def _plan(couplings, i, j, c, x, y):
    """The coupling of one coordinate on a lattice, from the law of y given each x."""
    pairs = select_pairs(jnp.zeros(couplings.costs.shape).at[i, j].set(1.0), 0.0)
    left, right = (v.ravel() for v in np.meshgrid(x, y, indexing="ij"))
    weight = jnp.where(jnp.arange(2)[None] == i, 0.0, -jnp.inf) * jnp.ones((len(left), 1))
    single = eqx.tree_at(
        lambda v: (v.source, v.problems),
        couplings,
        (Poisson(np.asarray(couplings.source.rate)[:, [c]]), couplings.problems[:, :, [c]]),
    )
    log_law = single.log_conditional(jnp.asarray(left[:, None]), jnp.asarray(right[:, None]), weight, pairs)
    return np.asarray(log_law).reshape(len(x), len(y))


@pytest.mark.parametrize("epsilon", [2.0, 0.4, 0.1])
def test_regularized_plans_are_optimal(epsilon, x64):
    """What characterizes the optimum: both marginals, and log-densities that are sums of two functions and the cost.

    By Newton's method, by Newton's method near where it fails, and by the path of decreasing epsilon.
    """
    (source, own), (target, other) = _sides()["poisson"], _sides()["negative"]
    couplings = solve_lattice_couplings(source, target, jnp.asarray(epsilon))
    assert bool(couplings.result == omt.RESULTS.successful)
    i, j = 0, 1
    cost, kl, errors = 0.0, 0.0, float(couplings.errors[i, j])
    for c in range(2):
        x, a, y, b = *_table(own[i][c], 1e-10), *_table(other[j][c], 1e-10)
        log_law = _plan(couplings, i, j, c, x, y)
        plan = a[:, None] * np.exp(log_law)
        assert np.abs(plan.sum(0) - b).sum() < 1e-8
        distances = (x[:, None] - y[None]) ** 2
        dual = epsilon * (log_law - np.log(b)[None]) + distances
        likely = (a > 1e-8)[:, None] & (b > 1e-8)[None]
        rest = dual - dual[:, :1] - dual[:1] + dual[0, 0]
        np.testing.assert_allclose(rest[likely], 0, atol=1e-7)
        cost += (plan * distances).sum()
        kl += (plan * (log_law - np.log(b)[None])).sum()
    np.testing.assert_allclose([couplings.costs[i, j], couplings.kl[i, j]], [cost, kl], rtol=1e-6)
    assert errors < 1e-6 * cost


def test_regularized_plans_agree_with_a_dense_solve(x64):
    (source, own), (target, other) = _sides()["poisson"], _sides()["negative"]
    couplings = solve_lattice_couplings(source, target, jnp.asarray(2.0))
    index = np.full(4, 1), np.zeros(4, int)
    index = jnp.asarray(index[0]), jnp.asarray(index[1])
    value = 0.0
    for c in range(2):
        x, a, y, b = *_table(own[1][c]), *_table(other[0][c])
        objective, *_, mean, variance = lines.report(x, a, y, b, 2.0)
        value += objective
        points = jnp.zeros((4, 2)).at[:, c].set(jnp.arange(4.0))
        ours = couplings.conditional_mean(points, *index)
        np.testing.assert_allclose(ours[:, c], mean[:4], rtol=1e-7)
        pairs = select_pairs(jnp.asarray([[0.0, 0.0], [1.0, 0.0]]), 0.0)
        spread = couplings.conditional_covariance(points, ours, jnp.ones((4, 2)), pairs)
        np.testing.assert_allclose(spread[:, c, c], variance[:4], rtol=1e-6)
    assert abs(float(couplings.objectives()[1, 0]) - value) <= float(couplings.errors[1, 0]) + 1e-9


@pytest.mark.parametrize("epsilon", [1.0, 0.0])
def test_draws_are_counts_and_follow_the_conditional_law(epsilon):
    (source, _), (target, _) = _sides()["poisson"], _sides()["binomial"]
    couplings = solve_lattice_couplings(source, target, jnp.asarray(epsilon, jnp.float32))
    num = 4000
    x = np.tile(np.float32([[3.0, 1.0]]), (num, 1))
    index = np.zeros(num, int), np.ones(num, int)
    y = np.asarray(couplings.sample_conditional(jax.random.key(0), jnp.asarray(x), *map(jnp.asarray, index)))
    assert (y == np.round(y)).all()
    assert y.min() >= 0
    assert y.max() <= 7
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    pairs = select_pairs(jnp.asarray([[0.0, 1.0], [0.0, 0.0]], jnp.float32), 0.0)
    weight = np.where(np.arange(2) == 0, 0.0, -np.inf) * np.ones((64, 1))
    log_law = couplings.log_conditional(jnp.asarray(x[:64]), jnp.asarray(grid), jnp.asarray(weight, jnp.float32), pairs)
    law = np.exp(np.asarray(log_law, float))
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-4)
    np.testing.assert_allclose(
        law @ grid,
        couplings.conditional_mean(*(jnp.asarray(v) for v in (x[:1], *(i[:1] for i in index))))[0],
        rtol=1e-4,
    )
    counts = np.zeros(64)
    np.add.at(counts, (8 * y[:, 0] + y[:, 1]).astype(int), 1)
    likely = law * num > 5
    rest = np.append(counts[likely], counts[~likely].sum()), np.append(law[likely], law[~likely].sum()) * num
    keep = rest[1] > 1
    assert st.chisquare(rest[0][keep], rest[1][keep] * rest[0][keep].sum() / rest[1][keep].sum()).pvalue > 1e-4


def test_tracing_gives_the_same_numbers_and_derivatives(x64):
    """Derivatives of objectives against finite differences of the concrete solve."""
    target = NegativeBinomial(RATES[:1], CONCENTRATIONS[:1])

    def objective(rate, epsilon):
        return solve_lattice_couplings(Poisson(rate), target, epsilon).objectives()[0, 0]

    rate, epsilon = jnp.asarray(RATES[:1]), jnp.asarray(0.7)
    value, slope = jax.jit(jax.value_and_grad(objective, (0, 1)))(rate, epsilon)
    np.testing.assert_allclose(value, objective(rate, epsilon), rtol=1e-9)
    for c in range(2):
        step = np.zeros((1, 2))
        step[0, c] = 1e-3
        difference = (objective(rate + step, epsilon) - objective(rate - step, epsilon)) / 2e-3
        np.testing.assert_allclose(slope[0][0, c], difference, rtol=1e-5)
    difference = (objective(rate, epsilon + 1e-4) - objective(rate, epsilon - 1e-4)) / 2e-4
    np.testing.assert_allclose(slope[1], difference, rtol=1e-5)


def test_errors_in_single_precision_cover_rounding():
    (source, _), (target, _) = _sides()["poisson"], _sides()["binomial"]
    single = solve_lattice_couplings(source, target, jnp.asarray(1.0, jnp.float32))
    with jax.enable_x64(True):
        double = solve_lattice_couplings(*(_sides()[n][0] for n in ("poisson", "binomial")), jnp.asarray(1.0))
    gap = np.abs(np.asarray(single.objectives(), float) - np.asarray(double.objectives()))
    assert (gap <= np.asarray(single.objective_errors)).all()


def test_long_tails_are_cut_and_the_error_covers_it(x64):
    """A window of at most 1,024 numbers leaves something of this law; the error says no less than the truth."""
    concentration, mean = 0.5, 30.0
    source = NegativeBinomial([[mean]], [[concentration]])
    couplings = solve_lattice_couplings(source, Poisson([[mean]]), jnp.asarray(0.0))
    x, a, y, b = (
        *_table(st.nbinom(concentration, concentration / (mean + concentration)), 1e-16),
        *_table(st.poisson(mean)),
    )
    truth = (_merged(x, a, y, b) * (x[:, None] - y[None]) ** 2).sum()
    gap = abs(float(couplings.costs[0, 0]) - truth)
    assert gap <= couplings.errors[0, 0]
    assert couplings.errors[0, 0] < 0.01 * truth
    with pytest.raises(ValueError, match=r"`source` must have counts .* Gamma or LogNormal"):
        solve_lattice_couplings(NegativeBinomial([[2e5]], [[0.3]]), Poisson([[mean]]), jnp.asarray(0.0))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 2.0, 20.0])
def test_groups_of_numbers_stand_for_wide_laws(epsilon, x64, monkeypatch):
    """With windows as if 40 numbers were many, against every number by itself: costs, errors, images, draws."""
    source = NegativeBinomial([[12.0], [6.0]], [[3.0], [8.0]])
    target = NegativeBinomial([[15.0], [5.0]], [[4.0], [1.5]])
    exact = solve_lattice_couplings(source, target, jnp.asarray(epsilon))
    monkeypatch.setattr(windows, "WIDEST", 40)
    monkeypatch.setattr(windows, "_GROUPS", 40)
    grouped = solve_lattice_couplings(source, target, jnp.asarray(epsilon))
    assert grouped.tables[0].groups is not None
    assert grouped.tables[0].width < exact.tables[0].width
    truth, found, errors = (np.asarray(v) for v in (exact.objectives(), grouped.objectives(), grouped.errors))
    if epsilon == 0:
        truth, found = np.asarray(exact.costs), np.asarray(grouped.costs)
    assert (np.abs(found - truth) <= errors).all()
    # Groups hold five numbers or less, whose squares vary by two.
    assert (np.abs(found - truth) <= (0.01 if epsilon > 2 else 2.0)).all()
    assert (errors <= 4.0).all()

    shares = jnp.ones((2, 2)) / 2
    x = np.array([[2.0], [3.0], [7.0], [11.0], [30.0]])
    one = jnp.asarray(np.eye(2)[[0, 1, 1, 0, 0]])
    images = [np.asarray(own.component_maps(shares)(jnp.asarray(x), one)) for own in (exact, grouped)]
    np.testing.assert_allclose(images[1], images[0], atol=0.8)
    pairs = jnp.full((4000,), 1), jnp.full((4000,), 0)
    draws = np.asarray(grouped.sample_conditional(jax.random.key(0), jnp.full((4000, 1), 9.0), *pairs))
    np.testing.assert_array_equal(draws, np.round(draws))
    mean, variance = (float(v[0]) for v in exact._moments_at(jnp.asarray([9.0]), jnp.asarray(1), jnp.asarray(0)))
    assert abs(draws.mean() - mean) < 5 * np.sqrt(variance / 4000) + 0.5
    if epsilon > 0.1:
        numbers = jnp.arange(400.0)
        density = jax.vmap(lambda y: grouped._log_density_at(jnp.asarray([9.0]), y[None], *(p[0] for p in pairs)))
        known = jax.vmap(lambda y: exact._log_density_at(jnp.asarray([9.0]), y[None], *(p[0] for p in pairs)))
        ours, theirs = (np.exp(np.asarray(jax.jit(f)(numbers))) for f in (density, known))
        assert abs(ours.sum() - 1) < 1e-6
        assert np.abs(ours - theirs).sum() < (0.15 if epsilon > 10 else 0.4)


def test_laws_wider_than_any_window_are_transported(tmp_path, x64):
    """A standard deviation of 300, against merged quantiles; to itself scaled at next to no cost."""
    mean, concentration = 400.0, 1.8
    source = NegativeBinomial([[mean]], [[concentration]])
    target = NegativeBinomial([[250.0]], [[concentration]])
    couplings = solve_lattice_couplings(source, target, jnp.asarray(0.0))
    x, a, y, b = (
        value for m in (mean, 250.0) for value in _table(st.nbinom(concentration, concentration / (m + concentration)))
    )
    # Between the steps of both distribution functions neither quantile changes.
    ends = np.sort(np.concatenate([[0.0], np.cumsum(a), np.cumsum(b)]))
    middle = (ends[1:] + ends[:-1]) / 2
    left, right = (v[np.minimum(np.searchsorted(np.cumsum(p), middle), len(v) - 1)] for v, p in ((x, a), (y, b)))
    truth = np.diff(ends) @ (left - right) ** 2
    gap = abs(float(couplings.costs[0, 0]) - truth)
    assert gap <= float(couplings.errors[0, 0])
    assert float(couplings.errors[0, 0]) < 0.02 * truth
    back = solve_lattice_couplings(source, source, jnp.asarray(0.0))
    assert float(back.costs[0, 0]) <= float(back.errors[0, 0])
    plan = omt.transport(omt.Mixture([1.0], source), omt.Mixture([1.0], target), epsilon_components=0.0)
    omt.save(tmp_path / "plan.omt", plan)
    points = np.array([[10.0], [333.0], [2500.0]])
    images = np.asarray(plan.push_forward(points))
    np.testing.assert_array_equal(omt.load(tmp_path / "plan.omt").push_forward(points), images)
    # Quantiles of gamma laws of one shape are multiples of each other.
    np.testing.assert_allclose(images, points * 250.0 / mean, rtol=0.02, atol=2.0)
    twice = plan.reverse().push_forward(np.round(images))
    np.testing.assert_allclose(twice, points, rtol=0.02, atol=4.0)


class OwnPoisson(omt.extend.AbstractFactorizedFamily):
    """A family of counts in a few lines: its normalizer, moments and draws are summed."""

    support, start = constraints.nonnegative_integer, (0.0,)

    def _statistics(self, x):
        return (x,)

    def _log_base(self, x):
        return -jax.scipy.special.gammaln(x + 1)


def test_an_own_family_of_counts_is_summed_and_transported(x64):
    own, known = OwnPoisson(np.log(RATES)[..., None]), Poisson(RATES)
    x = np.array([[0.0, 3.0], [11.0, 2.0]])
    np.testing.assert_allclose(own.log_prob(x), known.log_prob(x), rtol=1e-11)
    np.testing.assert_allclose(own.mean(), RATES, rtol=1e-11)
    np.testing.assert_allclose(own.entropy(), [st.poisson(row).entropy().sum() for row in RATES], rtol=1e-9)
    draws = np.asarray(own.sample(jax.random.key(0), 2000))
    assert (draws == np.round(draws)).all()
    np.testing.assert_allclose(draws.mean(0), RATES, atol=5 * np.sqrt(RATES.max() / 2000))
    target = _sides()["binomial"][0]
    costs = [solve_lattice_couplings(side, target, jnp.asarray(1.0)).costs for side in (own, known)]
    np.testing.assert_allclose(*costs, rtol=1e-9)


def test_a_plan_between_counts():
    """From data to a map of counts and back, and what does not fit is refused in one line."""
    rng = np.random.default_rng(0)
    z = rng.random(600) < 0.4
    x = np.where(z[:, None], rng.poisson([2.0, 9.0], (600, 2)), rng.poisson([7.0, 1.0], (600, 2))).astype(float)
    y = np.where(z[:, None], rng.poisson([4.0, 9.0], (600, 2)), rng.poisson([7.0, 3.0], (600, 2))).astype(float)
    plan = omt.transport(
        *(omt.fit(jax.random.key(0), data, Poisson, 2) for data in (x, y)), epsilon_components=0.5, epsilon_weights=0.1
    )
    images = np.asarray(plan.push_forward(x))
    np.testing.assert_allclose(images.mean(0), y.mean(0), atol=0.3)
    drawn = np.asarray(plan.sample(jax.random.key(1), x))
    assert (drawn == np.round(drawn)).all()
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(y.T), atol=1.2)
    back = np.asarray(plan.reverse().push_forward(y))
    np.testing.assert_allclose(back.mean(0), x.mean(0), atol=0.3)
    gaussian = omt.Mixture([1.0], Gaussian(np.zeros((1, 2)), np.eye(2)[None]))
    with pytest.raises(TypeError, match="both have counts, or both continuous"):
        omt.transport(plan.source, gaussian)
