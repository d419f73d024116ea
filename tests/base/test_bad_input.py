"""Bad input is refused in one or two lines that name the argument."""

import functools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, HealthCheck, settings, strategies as st
from hypothesis.extra import numpy as hnp

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian, LowRankGaussian, SphericalGaussian
from tests.cases import mixture

EYE = np.broadcast_to(np.eye(2), (3, 2, 2))
MEAN = np.zeros((3, 2))
NAN = np.array([[0.0, np.nan], [0, 0], [0, 0]])
DATA = np.random.default_rng(0).standard_normal((20, 2))


def key():
    return jax.random.key(0)


@functools.cache
def law(dim=2, num=3):
    return mixture("Gaussian", 0, "float32", num, dim)


@functools.cache
def plan():
    return omt.transport(law(), law(), epsilon_components=0.1, epsilon_weights=0.1)


class Sparse:
    shape = (1_000_000, 30_000)

    def toarray(self):
        raise AssertionError("it would fill the memory")


def in_groups(labels):
    return omt.group_shares(law(2, 3), np.zeros((2, 2), "float32"), labels)


CASES = {
    "masked": (
        lambda: omt.fit(key(), np.ma.masked_less(DATA, -1), Gaussian, 1),
        ValueError,
        r"`x` must not have masked values; got \d+\. Drop or impute",
    ),
    "sparse": (lambda: omt.fit(key(), Sparse(), Gaussian, 1), ValueError, "`x` is sparse, of shape .* Reduce it"),
    "text among numbers": (
        lambda: law().log_prob(np.array([[1.0, "a"]], object)),
        TypeError,
        "`x` must be an array of real numbers; one of its entries is 'a'",
    ),
    "missing group": (lambda: in_groups(["a", None]), ValueError, "`groups` must name .* 1 do not, the first at 1"),
    "factor not triangular": (
        lambda: Gaussian(MEAN, scale_tril=EYE + 0.1),
        ValueError,
        "`scale_tril` must be lower triangular",
    ),
    "factor not positive": (
        lambda: Gaussian(MEAN, scale_tril=EYE * np.array([1.0, -1.0])),
        ValueError,
        r"`the diagonal of scale_tril` must be positive; got -1",
    ),
    "Gaussian NaN": (lambda: Gaussian(NAN, EYE), ValueError, r"`mean` must be finite; got nan at index \[0, 1\]"),
    "Gaussian indefinite": (
        lambda: Gaussian(MEAN, EYE * np.array([1, -1, 1])[:, None, None]),
        ValueError,
        "`covariance` must be positive definite; component 1 has smallest eigenvalue -1",
    ),
    "Gaussian asymmetric": (
        lambda: Gaussian(MEAN, EYE + np.array([[0, 0.5], [0, 0]])),
        ValueError,
        "`covariance` must be symmetric; component 0",
    ),
    "Gaussian shape": (lambda: Gaussian(MEAN, EYE[:2]), ValueError, r"`covariance` must have shape \(3, 2, 2\)"),
    "Gaussian axes": (lambda: Gaussian(MEAN[0], EYE), ValueError, r"`mean` must have shape \[K, d\]; got shape \(2,\)"),
    "Gaussian text": (lambda: Gaussian([["a", "b"]], EYE), TypeError, "`mean` must be an array of real numbers"),
    "Gaussian complex": (lambda: Gaussian(MEAN + 1j, EYE), TypeError, "`mean` must be an array of real numbers"),
    "Gaussian nothing": (lambda: Gaussian(MEAN), TypeError, "exactly one of `covariance` and `scale_tril`"),
    "Gaussian ragged": (lambda: Gaussian([[0.0], [1.0, 2.0]], EYE), TypeError, "`mean` must be an array"),
    "diagonal": (lambda: DiagonalGaussian(MEAN, MEAN), ValueError, "`variance` must be positive; got 0 at index"),
    "spherical": (lambda: SphericalGaussian(MEAN, np.ones(2)), ValueError, "`variance` must have shape"),
    "low rank": (
        lambda: LowRankGaussian(MEAN, np.ones((3, 5, 1)), np.ones((3, 2))),
        ValueError,
        "`factor` must have shape",
    ),
    "weights sum": (
        lambda: omt.Mixture([0.5, 0.2, 0.2], Gaussian(MEAN, EYE)),
        ValueError,
        "`weights` must sum to one; got a sum of 0.9",
    ),
    "weights negative": (
        lambda: omt.Mixture([1.5, -0.5, 0], Gaussian(MEAN, EYE)),
        ValueError,
        "`weights` must not be negative; got -0.5 at index 1",
    ),
    "weights number": (lambda: omt.Mixture([0.5, 0.5], Gaussian(MEAN, EYE)), ValueError, "one entry per component, 3"),
    "weights NaN": (
        lambda: omt.Mixture([0.5, 0.5, np.nan], Gaussian(MEAN, EYE)),
        ValueError,
        "`weights` must be finite",
    ),
    "components": (lambda: omt.Mixture([1.0], "Gaussian"), TypeError, "components"),
    "points width": (lambda: law().log_prob(np.zeros((4, 3))), ValueError, r"`x` must have shape \[n, 2\]"),
    "points axes": (lambda: law().log_prob(np.zeros(2)), ValueError, r"`x` must have shape \[n, d\]"),
    "points NaN": (lambda: plan().push_forward([[0.0, np.inf]]), ValueError, "`x` must be finite; got inf at index"),
    "sample number": (lambda: law().sample(key(), 0), ValueError, "`num_samples` must be at least 1; got 0"),
    "sample key": (lambda: law().sample(0, 3), TypeError, "`key` must be a random key"),
    "dimensions": (
        lambda: omt.transport(law(2), law(3), epsilon_components=0.1, epsilon_weights=0.1),
        ValueError,
        "`target` must have the dimension of `source`, 2; got 3",
    ),
    "negative epsilon": (
        lambda: omt.transport(law(), law(), epsilon_components=-0.1, epsilon_weights=0.1),
        ValueError,
        "`epsilon_components` must be a finite number at least 0; got -0.1",
    ),
    "NaN epsilon": (
        lambda: omt.transport(law(), law(), epsilon_components=0.1, epsilon_weights=float("nan")),
        ValueError,
        "`epsilon_weights` must be a finite number at least 0; got nan",
    ),
    "epsilon array": (
        lambda: omt.transport(law(), law(), epsilon_components=np.ones(2), epsilon_weights=0.1),
        TypeError,
        "`epsilon_components` must be a single number",
    ),
    "start shape": (
        lambda: omt.transport(
            law(), law(), epsilon_components=0.1, epsilon_weights=0.1, start=omt.BlockStart(weights=np.ones((2, 2)))
        ),
        ValueError,
        r"`start.weights` must have shape \(3, 3\)",
    ),
    "start marginals": (
        lambda: omt.transport(
            law(), law(), epsilon_components=0.1, epsilon_weights=0.1, start=omt.BlockStart(weights=np.eye(3))
        ),
        ValueError,
        "`start.weights` must be nonnegative with the mixtures' weights as marginals",
    ),
    "start covariances": (
        lambda: omt.transport(
            law(),
            law(),
            epsilon_components=0.1,
            epsilon_weights=0.1,
            start=omt.BlockStart(cross_covariances=np.broadcast_to(99 * np.eye(2), (3, 3, 2, 2))),
        ),
        ValueError,
        "`start.cross_covariances` must leave each joint covariance positive definite",
    ),
    "joint shapes": (
        lambda: plan().log_prob(np.zeros((2, 2)), np.zeros((3, 2))),
        ValueError,
        "`y` must have the shape",
    ),
    "time": (lambda: plan().interpolate(-0.1), ValueError, "`t` must be a finite number at least 0"),
    "fit empty": (lambda: omt.fit(key(), np.zeros((0, 2)), Gaussian, 1), ValueError, "as many points as components, 1"),
    "fit few": (lambda: omt.fit(key(), DATA[:3], Gaussian, 4), ValueError, "as many points as components, 4"),
    "fit missing": (
        lambda: omt.fit(key(), np.where(DATA > 2, np.nan, DATA) * np.r_[np.nan, np.ones(19)][:, None], Gaussian, 2),
        ValueError,
        "`x` must be finite; got nan at index .*impute missing",
    ),
    "fit axes": (lambda: omt.fit(key(), DATA[0], Gaussian, 1), ValueError, r"`x` must have shape \[n, d\]"),
    "fit family": (lambda: omt.fit(key(), DATA, dict, 2), TypeError, "`family` must be a component family"),
    "fit rank": (lambda: omt.fit(key(), DATA, LowRankGaussian, 2), TypeError, "LowRankGaussian needs its rank"),
    "fit rank size": (
        lambda: omt.fit(key(), DATA, omt.template(LowRankGaussian, rank=2), 2),
        ValueError,
        "`rank` must be smaller than the dimension 2",
    ),
    "fit number": (lambda: omt.fit(key(), DATA, Gaussian, 0), ValueError, "`num_components` must be at least 1"),
    "fit weight": (
        lambda: omt.fit(key(), DATA, Gaussian, 2, sample_weight=-np.ones(20)),
        ValueError,
        "`sample_weight` must be finite and nonnegative",
    ),
    "fit weight shape": (
        lambda: omt.fit(key(), DATA, Gaussian, 2, sample_weight=np.ones(3)),
        ValueError,
        r"`sample_weight` must have shape \(20,\)",
    ),
    "fit start": (lambda: omt.fit(key(), DATA, Gaussian, 2, start="best"), ValueError, '`start` must be "merge"'),
    "fit start mixture": (
        lambda: omt.fit(key(), DATA, Gaussian, 2, start=law()),
        ValueError,
        "`start` must have 2 components in 2 dimensions; got 3 in 2",
    ),
    "fit start family": (
        lambda: omt.fit(key(), DATA, DiagonalGaussian, 3, start=law()),
        TypeError,
        "`start` must be a mixture of DiagonalGaussian components",
    ),
    "fit prior": (
        lambda: omt.fit(key(), DATA, Gaussian, 2, covariance_prior=-1.0),
        ValueError,
        "`covariance_prior` must be a finite number at least 0",
    ),
    "fit dtype": (lambda: omt.fit(key(), DATA, Gaussian, 2, dtype="float16"), ValueError, '`dtype` must be "float64"'),
    "select": (
        lambda: omt.select_num_components(key(), DATA, Gaussian, []),
        ValueError,
        "`candidates` must hold at least one",
    ),
    "select criterion": (
        lambda: omt.select_num_components(key(), DATA, Gaussian, [1], criterion="aic"),
        ValueError,
        '`criterion` must be "bic" or "held_out"',
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_is_refused_by_name(name):
    call, error, message = CASES[name]
    with pytest.raises(error) as caught:
        call()
    # The run-time type checker of the test-suite has its own, longer words for arguments of another type.
    if not isinstance(caught.value, jaxtyping.TypeCheckError):
        assert re.search(message, str(caught.value))
        assert len(str(caught.value).splitlines()) <= 2


def test_fit_refuses_tracing():
    with pytest.raises(TypeError, match="`x` must be concrete data"):
        jax.jit(lambda x: omt.fit(key(), x, Gaussian, 2).log_likelihood)(jnp.asarray(DATA, jnp.float32))


odd_numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)
odd_arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int32, np.bool_]), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(weights=odd_arrays, mean=odd_arrays, covariance=odd_arrays)
def test_odd_mixtures_are_refused_or_sound(weights, mean, covariance):
    """Whatever the arrays: a ValueError or TypeError of at most two lines, or a mixture that works."""
    try:
        built = omt.Mixture(weights, Gaussian(mean, covariance))
    except (ValueError, TypeError) as error:
        assert "`" in str(error) or "Gaussian takes" in str(error)
        assert len(str(error).splitlines()) <= 2
        return
    assert abs(float(built.weights.sum()) - 1) < 1e-5
    assert np.isfinite(np.asarray(built.mean())).all()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=odd_numbers, second=odd_numbers)
def test_odd_regularizations_are_refused_or_solved(first, second):
    source, target = law(), mixture("Gaussian", 1, "float32", 3, 2)
    try:
        solved = omt.transport(source, target, epsilon_components=first, epsilon_weights=second)
    except (ValueError, TypeError, omt.ConvergenceError) as error:
        assert len(str(error).splitlines()) <= 2
        assert isinstance(error, omt.ConvergenceError) or not (
            np.isfinite(first) and np.isfinite(second) and first >= 0 and second >= 0
        )
        return
    weights = np.asarray(solved.weights)
    assert np.isfinite(weights).all()
    assert abs(weights.sum(1) - np.asarray(source.weights)).max() < 1e-4
    assert np.isfinite(np.asarray(solved.push_forward(DATA[:3]))).all()
    # An absurd regularization may not be solved, but ordinary ones must be.
    assert solved.converged


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(x=hnp.arrays(np.float32, (6, 2), elements=odd_numbers))
def test_odd_data_are_refused_or_fitted(x):
    try:
        fitted = omt.fit(key(), x, DiagonalGaussian, 2, throw=False)
    except ValueError as error:
        assert len(str(error).splitlines()) <= 2
        assert "`" in str(error)
        assert not np.isfinite(x).all() or np.abs(x).max() > 1e15
        return
    if fitted.converged and np.abs(x).max() < 1e15:
        assert np.isfinite(np.asarray(fitted.mixture.components.mean())).all()
        assert abs(float(fitted.mixture.weights.sum()) - 1) < 1e-5


def test_numbers_of_any_kind_are_taken():
    """Columns of several types and masks that hide nothing lose nothing."""
    mixed = np.array([[1, 0.5], [np.float32(0.25), True]], object)
    np.testing.assert_array_equal(law().log_prob(mixed), law().log_prob(mixed.astype("float32")))
    plain = np.ma.masked_array(DATA)
    np.testing.assert_array_equal(law().log_prob(plain), law().log_prob(DATA))


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("push_forward", (0, 2)),
        ("pull_back", (0, 2)),
        ("push_forward_most_likely", (0, 2)),
        ("target_probabilities", (0, 3)),
        ("conditional_covariance", (0, 2, 2)),
    ],
)
def test_no_points_are_mapped_to_none(method, shape):
    assert getattr(plan(), method)(np.zeros((0, 2), "float32")).shape == shape


def test_no_points_are_drawn_for_none():
    none = np.zeros((0, 2), "float32")
    assert plan().sample(key(), none).shape == (0, 2)
    assert plan().log_prob(none, none).shape == (0,)
