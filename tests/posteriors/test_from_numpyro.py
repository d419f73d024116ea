"""Posteriors from a user's own NumPyro runs: labels, diagnostics and what is refused."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import autoguide, init_to_value, MCMC, NUTS, SVI, Trace_ELBO

import omt_expfam as omt
from omt_expfam._base.precision import relaxed
from omt_expfam.families import DiagonalGaussian, Gaussian

NUM, DIM, DRAWS = 60, 2, 200


@functools.cache
def data():
    """Three clusters."""
    rng = np.random.default_rng(2)
    centers = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0]])
    return (np.repeat(centers, NUM // 3, axis=0) + rng.normal(size=(NUM, DIM))).astype("float32")


def sites(num=DRAWS, seed=0, shift=0.0):
    """Draws of sites with a user's own names, about the three clusters."""
    rng = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0]]) + shift
    draws = {
        "w": rng.dirichlet([20.0, 25.0, 30.0], num),
        "mu": centers + 0.2 * rng.normal(size=(num, 3, DIM)),
        "tril": np.exp(0.1 * rng.normal(size=(num, 3, 1, 1))) * np.eye(DIM),
    }
    return {name: jnp.asarray(v, "float32") for name, v in draws.items()}


def build(s):
    return omt.Mixture(s["w"], Gaussian(s["mu"], scale_tril=s["tril"]))


stack = jax.jit(jax.vmap(build))


def shuffled(draws, seed=1):
    """The same draws with the components of each in another order."""
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(3) for _ in range(DRAWS)])
    rows = np.arange(DRAWS)[:, None]
    return {name: jnp.asarray(np.asarray(v)[rows, order]) for name, v in draws.items()}, order


# -- labels ---------------------------------------------------------------------------------------------------------


def test_switched_labels_are_brought_back():
    """Permuted draws give the same posterior: labels follow the reference, all that is label-free stays put."""
    draws = sites()
    mixed, order = shuffled(draws)
    reference = build({n: jnp.asarray(np.asarray(v)[0]) for n, v in draws.items()})
    plain = omt.posterior_from_numpyro(draws, build, x=data(), reference=reference)
    found = omt.posterior_from_numpyro(mixed, build, x=data(), reference=reference)
    assert plain.num_relabelled == 0
    assert found.num_relabelled == int((order != np.arange(3)).any(axis=1).sum())
    for ours, theirs in zip(jax.tree.leaves(found.mixtures), jax.tree.leaves(plain.mixtures), strict=True):
        # Weights are divided by their sum, whose rounding depends on the order.
        np.testing.assert_allclose(ours, theirs, rtol=3e-7)
    for name, values in plain.parameters.items():
        np.testing.assert_allclose(found.parameters[name], values, rtol=3e-7)
    assert set(found.parameters) == {"weights", "loc", "scale_tril"}
    np.testing.assert_array_equal(found.parameters["loc"], draws["mu"])
    np.testing.assert_allclose(found.label_free.r_hat, plain.label_free.r_hat, atol=1e-3)
    np.testing.assert_allclose(found.log_prob(data()[:5]), plain.log_prob(data()[:5]), rtol=1e-6)
    # Without a reference the labels are those of the first draw.
    own = omt.posterior_from_numpyro(mixed, build, x=data())
    np.testing.assert_array_equal(own.parameters["loc"], np.asarray(draws["mu"])[:, order[0]])
    assert f"{found.num_relabelled} draws relabelled" in repr(found)


def test_label_free_quantities_need_no_labels():
    """Before any relabelling: means, variances, log-likelihood and largest weight of permuted draws."""
    draws = sites()
    from omt_expfam._posteriors.label_free import LabelFree

    quantities = []
    for given in (draws, shuffled(draws)[0]):
        with relaxed():
            mixtures = stack(given)
        quantities.append(LabelFree.of(mixtures, jnp.asarray(data()), 2))
    np.testing.assert_allclose(quantities[0].draws, quantities[1].draws, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(quantities[0].r_hat, quantities[1].r_hat, atol=1e-3)


# -- other containers of draws ----------------------------------------------------------------------------------------


def test_chains_may_stand_apart_and_come_from_arviz():
    """The same draws grouped by chain, and in ArviZ's object, with its record of divergences."""
    import arviz

    flat = stacked(sites(), sites(seed=1))
    apart = {name: np.asarray(v).reshape(2, DRAWS, *v.shape[1:]) for name, v in flat.items()}
    plain = omt.posterior_from_numpyro(flat, build, num_chains=2)
    given = omt.posterior_from_numpyro(apart, build, group_by_chain=True)
    assert given.num_chains == 2
    np.testing.assert_array_equal(given.parameters["loc"], plain.parameters["loc"])
    diverging = np.zeros((2, DRAWS), bool)
    diverging[1, :5] = True
    groups = {"posterior": apart, "sample_stats": {"diverging": diverging}}
    new = int(arviz.__version__.split(".")[0]) >= 1
    tree = arviz.from_dict(groups) if new else arviz.from_dict(**groups)
    found = omt.posterior_from_numpyro(tree, build, throw=False)
    np.testing.assert_array_equal(found.parameters["loc"], plain.parameters["loc"])
    assert (found.num_chains, found.num_divergences) == (2, 5)
    uneven = {**apart, "w": apart["w"][:1]}
    with pytest.raises(ValueError, match=r"^`run` must hold chains and draws of every site"):
        omt.posterior_from_numpyro(uneven, build, group_by_chain=True)
    with pytest.raises(ValueError, match="^`num_chains` must be left out, or 2 as in `run`; got 3"):
        omt.posterior_from_numpyro(apart, build, group_by_chain=True, num_chains=3)


def test_zeros_by_construction_are_left_out_of_summaries():
    """Every number that ArviZ summarizes has an r-hat."""
    import arviz

    rng = np.random.default_rng(0)
    draws = stacked(sites(), sites(seed=1))
    factor = np.array(draws["tril"])
    factor[:, :, 1, 0] = rng.normal(size=(2 * DRAWS, 3))
    draws["tril"] = jnp.asarray(factor)
    found = omt.posterior_from_numpyro(draws, build, num_chains=2)
    tree = found.to_arviz()
    factor = tree.posterior["scale_tril"]
    assert list(factor.coords["scale_tril_entry"].values) == ["0,0", "1,0", "1,1"]
    whole = np.asarray(found.parameters["scale_tril"])
    np.testing.assert_array_equal(np.concatenate(np.asarray(factor)), whole[:, :, [0, 1, 1], [0, 0, 1]])
    rhat = arviz.rhat(tree)
    rhat = getattr(rhat, "posterior", rhat)
    for name in rhat.data_vars:
        assert np.isfinite(np.asarray(rhat[name])).all(), name


# -- chains that did not mix ----------------------------------------------------------------------------------------


def stacked(*chains):
    return {name: jnp.asarray(np.concatenate([c[name] for c in chains])) for name in chains[0]}


def test_chains_at_two_places_are_reported():
    """The draws are not lost: the error carries them; `throw=False` returns them."""
    draws = stacked(sites(), sites(seed=1, shift=2.0))
    with pytest.raises(omt.ConvergenceError, match="^The chains did not mix: r-hat of a label-free") as caught:
        omt.posterior_from_numpyro(draws, build, num_chains=2)
    kept = caught.value.value
    assert isinstance(kept, omt.PosteriorFit)
    assert kept.num_draws == 2 * DRAWS
    found = omt.posterior_from_numpyro(draws, build, num_chains=2, throw=False)
    assert not found.converged
    assert found.result == omt.RESULTS.chains_not_mixed
    assert found.label_free.worst_r_hat > 1.5
    assert "NOT TO BE TRUSTED: The chains did not mix" in repr(found)
    np.testing.assert_array_equal(kept.parameters["loc"], found.parameters["loc"])
    good = omt.posterior_from_numpyro(stacked(sites(), sites(seed=1)), build, num_chains=2)
    assert good.converged
    assert good.num_chains == 2


def test_a_trend_within_one_chain_is_reported():
    """A single chain is held against itself."""
    draws = stacked(sites(), sites(seed=1, shift=2.0))
    found = omt.posterior_from_numpyro(draws, build)
    # Draws of unknown origin, in one piece, are taken as they are; but the number is there to see.
    assert found.label_free.worst_r_hat > 1.5


# -- runs of NumPyro ------------------------------------------------------------------------------------------------


def program(x):
    """A user's own model, with own names and a site that is no parameter of the mixture."""
    spread = numpyro.sample("spread", dist.HalfNormal(5.0))
    weights = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("k", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3 * spread).expand([DIM]).to_event(1))
        variance = numpyro.sample("v", dist.LogNormal(jnp.zeros(DIM), 1.0).to_event(1))
    mixture = omt.Mixture(weights, DiagonalGaussian(mu, variance))
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("x", omt.MixtureDistribution(mixture), obs=x)


def of_program(s):
    return omt.Mixture(s["w"], DiagonalGaussian(s["mu"], s["v"]))


def start():
    centers = jnp.asarray([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0]])
    return init_to_value(values={"w": jnp.full(3, 1 / 3), "mu": centers, "v": jnp.ones((3, DIM)), "spread": 2.0})


@pytest.mark.slow
@pytest.mark.loose
@pytest.mark.parametrize("num_chains", [1, 2])
def test_mcmc(num_chains):
    mcmc = MCMC(
        NUTS(program, init_strategy=start()),
        num_warmup=200,
        num_samples=500,
        num_chains=num_chains,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), data())
    found = omt.posterior_from_numpyro(mcmc, of_program, x=data())
    assert (found.num_chains, found.num_draws) == (num_chains, 500 * num_chains)
    assert found.method == "NUTS"
    assert found.converged
    assert found.statistics["diverging"].shape == (found.num_draws,)
    assert found.num_divergences == int(mcmc.get_extra_fields()["diverging"].sum())
    np.testing.assert_array_equal(found.parameters["loc"][0], mcmc.get_samples()["mu"][0])
    # Chains stand one after the other, as NumPyro groups them.
    grouped = mcmc.get_samples(group_by_chain=True)["w"]
    np.testing.assert_allclose(np.sort(found.parameters["weights"]), np.sort(grouped.reshape(-1, 3)), rtol=1e-5)
    tree = found.to_arviz(log_likelihood=True)
    assert tree["posterior"]["loc"].shape == (num_chains, 500, 3, DIM)
    assert np.isfinite(float(found.log_prob(data()).sum()))


class Pretender(MCMC):
    """A run with draws and divergences of one's choosing."""

    def __init__(self, draws, diverging):
        super().__init__(NUTS(program), num_warmup=1, num_samples=DRAWS, num_chains=2, progress_bar=False)
        self.draws, self.diverging = draws, diverging

    def get_samples(self, group_by_chain=False):
        return {n: jnp.asarray(np.reshape(v, (2, DRAWS // 2, *v.shape[1:]))) for n, v in self.draws.items()}

    @property
    def last_state(self):
        return self

    def get_extra_fields(self, group_by_chain=False):
        return {"diverging": self.diverging}


@pytest.mark.loose
@pytest.mark.parametrize(("rate", "converged"), [(0.005, True), (0.2, False)])
@pytest.mark.filterwarnings("ignore:There are not enough devices:UserWarning")
def test_divergences_are_reported(rate, converged):
    diverging = np.zeros((2, DRAWS // 2), bool)
    diverging[0, : round(rate * DRAWS)] = True
    found = omt.posterior_from_numpyro(Pretender(sites(), diverging), build, throw=False)
    assert found.num_divergences == round(rate * DRAWS)
    assert found.converged == converged
    if not converged:
        assert found.result == omt.RESULTS.chains_diverged
        with pytest.raises(omt.ConvergenceError, match="^More than 1 % of the transitions diverged"):
            omt.posterior_from_numpyro(Pretender(sites(), diverging), build)


@pytest.mark.loose
def test_svi():
    guide = autoguide.AutoNormal(program, init_loc_fn=start())
    svi = SVI(program, guide, optax.adam(0.01), Trace_ELBO())
    result = svi.run(jax.random.key(0), 300, data(), progress_bar=False)
    found = omt.posterior_from_numpyro((guide, result), of_program, key=jax.random.key(1), num_samples=150, x=data())
    assert (found.num_draws, found.num_chains, found.method) == (150, 1, "SVI")
    gap = np.asarray(found.parameters["loc"]).mean(axis=0) - [[0, 0], [6, 0], [0, 7]]
    assert np.abs(gap).max() < 1
    with pytest.raises(ValueError, match="^`key` must be given to draw from a guide"):
        omt.posterior_from_numpyro((guide, result), of_program)


def test_distributions_of_numpyro_as_components():
    def student(s):
        with relaxed():
            return omt.Mixture(s["w"], omt.NumPyroComponents(dist.StudentT(5.0, s["mu"], 1.0).to_event(1)))

    found = omt.posterior_from_numpyro(shuffled(sites())[0], student, x=data())
    assert isinstance(found.mixtures.components, omt.NumPyroComponents)
    assert found.num_relabelled > 50
    assert found.log_prob(data()[:3]).shape == (3,)


def test_float64_draws_stay_float64(x64):
    draws = {name: np.asarray(v, np.float64) for name, v in sites(20).items()}
    found = omt.posterior_from_numpyro(draws, build, x=data())
    assert found.parameters["loc"].dtype == np.float64
    assert found.x.dtype == np.float64


# -- bad input ------------------------------------------------------------------------------------------------------

# As users call it: without the type checker that the tests run under.
posterior_from_numpyro = inspect.unwrap(omt.posterior_from_numpyro)
GOOD = sites(8)
MISSING = np.where(np.arange(8)[:, None, None] == 3, np.nan, GOOD["mu"])
BAD = {
    "a list": (
        lambda: posterior_from_numpyro([1, 2], build),
        TypeError,
        r"^`run` must be an MCMC, a dictionary of draws, an ArviZ object with a posterior, or a pair .* got list",
    ),
    "a pair of others": (lambda: posterior_from_numpyro((1, 2), build), TypeError, "^`run` must be an MCMC"),
    "an MCMC that has not run": (
        lambda: posterior_from_numpyro(MCMC(NUTS(program), num_warmup=1, num_samples=1), build),
        ValueError,
        "^`run` must have run; call its `run` first",
    ),
    "no draws": (lambda: posterior_from_numpyro({}, build), ValueError, "^`run` must hold equally many draws"),
    "other lengths": (
        lambda: posterior_from_numpyro(GOOD | {"w": GOOD["w"][:5]}, build),
        ValueError,
        r"^`run` must hold equally many draws of every site; got lengths \[5, 8\]",
    ),
    "a number": (
        lambda: posterior_from_numpyro(GOOD | {"a": 1.0}, build),
        ValueError,
        "^`run` must hold equally many draws of every site",
    ),
    "chains": (
        lambda: posterior_from_numpyro(GOOD, build, num_chains=3),
        ValueError,
        "^`num_chains` must divide the number of draws, 8; got 3",
    ),
    "chains below one": (
        lambda: posterior_from_numpyro(GOOD, build, num_chains=0),
        ValueError,
        "^`num_chains` must be at least 1; got 0",
    ),
    "missing values": (
        lambda: posterior_from_numpyro(
            GOOD | {"mu": np.where(np.arange(8)[:, None, None] == 3, np.nan, GOOD["mu"])}, build
        ),
        ValueError,
        "^`run` must be finite; draw 3 is not",
    ),
    "weights": (
        lambda: posterior_from_numpyro(GOOD, lambda s: build(s | {"w": jnp.log(s["w"])})),
        ValueError,
        "^`weights` must not be negative",
    ),
    "not a mixture": (
        lambda: posterior_from_numpyro(GOOD, lambda s: s["mu"]),
        TypeError,
        "^`mixture` must return a Mixture; got",
    ),
    "not a function": (
        lambda: posterior_from_numpyro(GOOD, 3),
        TypeError,
        "^`mixture` must be a function of the sites",
    ),
    "a site that is not there": (
        lambda: posterior_from_numpyro(GOOD, lambda s: s["means"]),
        ValueError,
        "^`mixture` asks for a site 'means' that `run` does not have; it has mu, tril, w",
    ),
    "points": (
        lambda: posterior_from_numpyro(GOOD, build, x=data()[:, :1]),
        ValueError,
        r"^`x` must have shape \[n, 2\]",
    ),
    "reference": (
        lambda: posterior_from_numpyro(GOOD, build, reference=3),
        TypeError,
        "^`reference` must be a Mixture; got int",
    ),
    "reference of other size": (
        lambda: posterior_from_numpyro(
            GOOD, build, reference=omt.Mixture([1.0], Gaussian(np.zeros((1, 2)), np.eye(2)[None]))
        ),
        ValueError,
        "^`reference` must have the num_components of `draws`, 3; got 1",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused(case):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call()


def test_without_data_there_is_no_leave_one_out():
    found = omt.posterior_from_numpyro(sites(), build)
    assert found.x is None
    assert found.label_free.names[0] == "mean[0]"
    with pytest.raises(ValueError, match="^The posterior holds no data. Give `x` to `posterior_from_numpyro`"):
        found.loo()
    assert found.to_arviz() is not None
