"""Families that contradict themselves are named, with the method that is wrong; those of the library do not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jaxtyping import Array, Float
from numpyro.distributions import constraints

import omt_expfam as omt
from tests.cases import components


class Normal(omt.extend.AbstractEMFamily):
    """Normal components with diagonal covariances, written by hand."""

    loc: Float[Array, "K d"]
    scale: Float[Array, "K d"]
    standardization = "coordinate"

    @property
    def dim(self):
        return self.loc.shape[-1]

    def _log_prob(self, x):
        z = (x - self.loc) / self.scale
        return -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(self.scale)) - 0.5 * self.dim * np.log(2 * np.pi)

    def _sample(self, key):
        return self.loc + self.scale * jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def _mean(self):
        return self.loc

    def _covariance(self):
        return jnp.diag(self.scale**2)

    @classmethod
    def _blank(cls, num_components, dim, dtype, **fixed):
        return cls(jnp.zeros((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))

    def _accumulate(self, data, responsibilities):
        return responsibilities @ data.T, responsibilities @ (data**2).T

    def _maximize(self, counts, sums, target, strength, ridge):
        mean, square = (total / counts[:, None] for total in sums)
        return type(self)(mean, jnp.sqrt(square - mean**2 + ridge))

    def _affine(self, shift, scale):
        return type(self)(shift[None] + scale[None] * self.loc, scale[None] * self.scale)


class Unnormalized(Normal):
    def _log_prob(self, x):
        return super()._log_prob(x) + 0.1


class WideDraws(Normal):
    def _sample(self, key):
        return self.loc + 1.2 * (super()._sample(key) - self.loc)


class Shifted(Normal):
    def _log_prob(self, x):
        return super()._log_prob(x - 0.2 * self.scale)


class WrongMean(Normal):
    def _mean(self):
        return self.loc + 0.1 * self.scale


class Correlated(Normal):
    def _covariance(self):
        return super()._covariance() + 0.2 * self.scale[0] * self.scale[1] * (1 - jnp.eye(self.dim, dtype=self.dtype))


class WrongTable(Normal):
    def _table(self, data):
        return super()._table(data) * 1.01


class Averages(Normal):
    def _accumulate(self, data, responsibilities):
        return jax.tree.map(lambda s: s / data.shape[1], super()._accumulate(data, responsibilities))


class WrongStep(Normal):
    def _maximize(self, counts, sums, target, strength, ridge):
        right = super()._maximize(counts, sums, target, strength, ridge)
        return type(self)(right.loc, 2 * right.scale)


class Unmoved(Normal):
    def _affine(self, shift, scale):
        return self


class WrongLaw(Normal):
    def to_numpyro(self):
        return dist.Normal(self.loc, self.scale**2).to_event(1)


WRONG = {
    Unnormalized: "`_log_prob` of Unnormalized contradicts its other methods: the density of component 0 integrates",
    WideDraws: "`_sample` of WideDraws contradicts its other methods: draws against the density of component 0",
    Shifted: "`_log_prob` of Shifted contradicts its other methods: draws against the density",
    WrongMean: "`_mean` of WrongMean contradicts its other methods: against draws and density of component 0",
    Correlated: "`_covariance` of Correlated contradicts its other methods",
    WrongTable: "`_table, _prepare` of WrongTable contradicts its other methods: log-densities against `_log_prob`",
    Averages: "`_accumulate` of Averages contradicts its other methods: sums of two halves against those of all",
    WrongStep: "`_maximize, _accumulate` of WrongStep contradicts its other methods: the objective falls",
    Unmoved: "`_affine` of Unmoved contradicts its other methods: the law of shift",
    WrongLaw: "`to_numpyro` of WrongLaw contradicts its other methods: its log-densities",
}
LOC, SCALE = np.array([[1.0, 2.0], [4.0, -1.0]]), np.array([[0.5, 2.0], [1.0, 0.7]])


@pytest.mark.parametrize("family", WRONG)
def test_the_wrong_method_is_named(family):
    with pytest.raises(ValueError, match=WRONG[family]):
        omt.check_family(family(jnp.asarray(LOC), jnp.asarray(SCALE)))


def test_a_right_family_passes_from_components_and_from_points():
    right = Normal(jnp.asarray(LOC), jnp.asarray(SCALE))
    found = omt.check_family(right)
    assert found.passed
    assert "0 of" in repr(found)
    points = np.random.default_rng(0).normal(LOC.repeat(100, axis=0), SCALE.repeat(100, axis=0))
    assert omt.check_family(Normal, points).passed


KINDS = ["Gaussian", "LowRankGaussian", "StudentT", "Exponential", "Gamma", "NegativeBinomial", "VonMises"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_the_librarys_families_pass(name):
    found = omt.check_family(components(name, 0, "float32")[0], throw=False)
    assert found.passed, found


def test_a_result_that_failed_is_returned_when_asked():
    found = omt.check_family(WrongTable(jnp.asarray(LOC), jnp.asarray(SCALE)), throw=False)
    assert not found.passed
    assert [failure.method for failure in found.failures] == ["_table, _prepare"]
    assert found.failures[0].gap == pytest.approx(0.01, rel=0.3)
    assert "WRONG  _table, _prepare" in repr(found)


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.slow
def test_false_alarms_are_rare_for_heavy_tails_and_in_thirty_dimensions(scale):
    heavy = dist.StudentT(3.5 * np.ones((2, 3)), scale * np.ones((2, 3)), scale).to_event(1)
    for seed in range(3):
        assert omt.check_family(omt.NumPyroComponents(heavy), key=jax.random.key(seed), num_draws=5000).passed
    if scale == 1:
        wide = components("Gaussian", 0, "float32")[0]
        wide = type(wide)(np.zeros((1, 30)), np.eye(30)[None])
        assert omt.check_family(wide).passed


@pytest.mark.parametrize(
    ("family", "gap"), [(WrongTable, "`_table`, `_prepare` or `_affine` of WrongTable"), (Unmoved, "of Unmoved")]
)
def test_a_fit_compares_log_likelihoods(family, gap):
    points = np.random.default_rng(0).normal(LOC.repeat(100, axis=0), SCALE.repeat(100, axis=0))
    with pytest.raises(ValueError, match=rf"EM has a log-likelihood of .* and the fitted mixture has .*{gap}"):
        omt.fit(jax.random.key(0), 3 * points, family, 2)


def test_a_fit_whose_objective_falls_is_no_success():
    points = np.random.default_rng(0).normal(LOC.repeat(100, axis=0), SCALE.repeat(100, axis=0))
    with pytest.raises(omt.ConvergenceError, match="lowered its objective"):
        omt.fit(jax.random.key(0), points, WrongStep, 2, start="k-means++")
    failed = omt.fit(jax.random.key(0), points, WrongStep, 2, start="k-means++", throw=False)
    assert failed.result == omt.RESULTS.fit_fell
    assert omt.fit(jax.random.key(0), points, Normal, 2, start="k-means++").converged


class Bare(omt.AbstractComponents):
    loc: Any

    @property
    def dim(self):
        return self.loc.shape[-1]

    def _log_prob(self, x):
        return -0.5 * (x - self.loc) ** 2

    def _sample(self, key):
        return self.loc

    def _mean(self):
        return self.loc

    def _covariance(self):
        return jnp.eye(self.dim)


class ShortMean(Bare):
    def _log_prob(self, x):
        return jnp.sum(x)

    def _mean(self):
        return self.loc[:1]


class Scalar(omt.extend.AbstractFactorizedFamily):
    support, start = constraints.positive, (-1.0,)

    def _statistics(self, x):
        return x


class Long(Scalar):
    start = (-1.0, 2.0)

    def _statistics(self, x):
        return (x,)


class NoTuple(Long):
    start = -1.0


def test_shapes_and_types_are_looked_at_when_a_mixture_is_made():
    flat = jnp.zeros((2, 2))
    for parts, error, message in (
        (Bare(flat), ValueError, r"`_log_prob\(x\)` of Bare must return a scalar for one component; got shape \(2,\)"),
        (ShortMean(flat), ValueError, r"`_mean\(\)` of ShortMean must return an array of shape \(2,\)"),
        (Bare(jnp.zeros((2, 2), int)), TypeError, "`loc` of Bare must be an array of floating-point numbers; got int"),
        (Bare(1.0), TypeError, "`loc` of Bare must be an array of floating-point numbers; got float"),
        (Normal(flat, jnp.ones((3, 2))), ValueError, r"must have one leading axis.* got loc \(2, 2\), scale \(3, 2\)"),
    ):
        with pytest.raises(error, match=message):
            omt.Mixture([0.5, 0.5], parts)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Scalar, r"`_statistics\(x\)` of Scalar must return a tuple of 1 scalars, .*; got no tuple"),
        (Long, r"`_statistics\(x\)` of Long must return a tuple of 2 scalars, .*; got shapes \[\(\)\]"),
        (NoTuple, "`start` of NoTuple must be a tuple of numbers, one for each statistic; got -1.0"),
    ],
)
def test_statistics_and_start_are_looked_at(family, message):
    with pytest.raises(TypeError, match=message):
        omt.fit(jax.random.key(0), np.ones((9, 1)), family, 1)
    with pytest.raises(TypeError, match=message):
        family(np.ones((1, 1, np.size(family.start))))


def test_bad_arguments_of_the_check():
    with pytest.raises(ValueError, match="`x` must be given for a class"):
        omt.check_family(Normal)
    with pytest.raises(TypeError, match="`family` must be a component family that EM can fit"):
        omt.check_family(3)
    with pytest.raises(TypeError, match="Check each block"):
        omt.check_family(omt.Blocks([Normal(jnp.asarray(LOC), jnp.asarray(SCALE))]))
    with pytest.raises(ValueError, match="`num_draws` must be at least 1000"):
        omt.check_family(Normal(jnp.asarray(LOC), jnp.asarray(SCALE)), num_draws=3)
