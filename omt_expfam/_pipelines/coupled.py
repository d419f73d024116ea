"""Fitting two mixtures together: their transport cost as a penalty on the likelihood."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Int
from numpyro import handlers

from .._base.arguments import ArrayLike, as_count, as_host_or_traced, as_key, as_scalar, KeyLike, ScalarLike
from .._base.arrays import default_dtype, safe_log, to_jax
from .._base.buckets import pad, point_bucket
from .._base.precision import in_float64, narrow, relaxed
from .._base.results import raise_if_failed, RESULTS
from .._base.samples import refuse_constant
from .._base.tables import alike, column_names
from .._base.xla import program
from .._components.mixture import Mixture
from .._couplings.solve import solve_couplings
from .._family.em_family import AbstractEMFamily
from .._family.template import as_template, in_order_of, Template
from .._fitting.fit import fit
from .._plans.epsilons import check_epsilons, choose_epsilons, EpsilonLike
from .._plans.plan import TransportPlan
from .._plans.transport import transport
from .._posteriors.methods.mode import find_mode, Mode
from .._posteriors.methods.target import Target
from .._posteriors.model import mixture_model, MixtureModel
from .factor import check_differentiable, check_epsilon_weights

# Couplings below this share of all mass count as zero in the search: the logarithm of the weights stays finite.
_NO_MASS = 1e-12
# The least share that a component, or a pair of components, has at the start of the search: it must be able to grow.
_START_SHARE = 1e-8
# A penalty of less than so many nats in all is not searched for: it leaves the coupling as good as free.
_FELT = 1e-2
# How often the search may go on from where it stopped.
_SEARCHES = 10


class CoupledFit(eqx.Module):
    """Two mixtures fitted together, and what the coupling changed.

    Attributes:
        plan: The transport plan between the fitted mixtures.
        uncoupled_plan: The same between the mixtures fitted without penalty: the two separate posterior modes.
        log_likelihoods: Mean log-likelihood per point of the source and of the target data, in nats, shape ``[2]``.
        uncoupled_log_likelihoods: The same without penalty.
        strength: Strength of the penalty, in nats per point and squared distance.
        decrement: What a further Newton step would gain, in nats: of the posterior density of all data. For a penalty
            of less than 0.01 nats in all, the penalty: the separate modes are then returned.
        num_searches: How many searches it took; 0 for a penalty that is not felt.
        result: Why the search stopped.
    """

    plan: TransportPlan
    uncoupled_plan: TransportPlan
    log_likelihoods: Float[Array, " 2"]
    uncoupled_log_likelihoods: Float[Array, " 2"]
    strength: Float[Array, ""]
    decrement: Float[Array, ""]
    num_searches: Int[Array, ""]
    result: Any

    @property
    def source(self) -> Mixture:
        """The fitted source mixture."""
        return self.plan.source

    @property
    def target(self) -> Mixture:
        """The fitted target mixture."""
        return self.plan.target

    @property
    def converged(self) -> bool:
        """Whether the search ended at a proper maximum."""
        return bool(self.result == RESULTS.successful)

    def __repr__(self) -> str:
        costs = float(self.uncoupled_plan.cost), float(self.plan.cost)
        before, after = np.asarray(self.uncoupled_log_likelihoods).sum(), np.asarray(self.log_likelihoods).sum()
        return (
            f"CoupledFit({self.source.num_components} -> {self.target.num_components} components in "
            f"{self.source.dim} dimensions, transport cost {costs[0]:.4g} -> {costs[1]:.4g}, "
            f"log-likelihood per point {before / 2:.6g} -> {after / 2:.6g})"
        )


def fit_coupled(
    key: KeyLike,
    x: ArrayLike,
    y: ArrayLike,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily,
    num_components: Any,
    *,
    strength: ScalarLike,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    target_family: type[AbstractEMFamily] | Template | AbstractEMFamily | None = None,
    priors: Mapping[str, dist.Distribution] | None = None,
    target_priors: Mapping[str, dist.Distribution] | None = None,
    weight_concentration: ArrayLike = 1.0,
    start: Any = None,
    progress: bool | None = None,
    throw: bool = True,
) -> CoupledFit:
    r"""Fit two mixtures together, under a penalty on the transport between them.

    Maximizes the posterior density of two `mixture_model`s, in NumPyro's unconstrained coordinates, times
    $\exp(-\lambda \frac{n + m}{2} L)$ with $L$ the objective of `transport`: per point, the sum of both mean
    log-likelihoods (for n = m) less $\lambda L$. The search starts at the EM optimum of each data set.

    The penalty pulls the two data sets together as well as their components: of a shift $\delta$ between two
    well-separated components of variance $\sigma^2$ it leaves about $\delta / (1 + 4 \lambda \sigma^2)$. Strengths
    that are small beside $1 / (4 \sigma^2)$ settle which of several almost equally likely mixtures is meant; larger
    ones change what the data say.

    Args:
        key: Random key of the EM fits.
        x: Source points, shape ``[n, d]``.
        y: Target points, shape ``[m, d]``.
        family: A component family or a `template`, for which log-densities are twice differentiable.
        num_components: Number of components, or a pair of them: of the source, of the target.
        strength: Strength $\lambda$ of the penalty, in nats per point and unit of squared distance.
        epsilon_components: Regularization of the component couplings, units of squared distance; may be 0. ``"auto"``,
            see `transport`, is chosen for the EM fits and kept during the search.
        epsilon_weights: Regularization of the weight coupling, likewise; positive.
        epsilon_scale: Multiplies ``"auto"``.
        target_family: The family of the target's components; by default that of the source's.
        priors: Priors that replace the defaults of `mixture_model` on both sides, by parameter name.
        target_priors: Other priors for the target.
        weight_concentration: Concentration of the Dirichlet priors on the weights.
        start: Mixtures that EM starts from, of the source and of the target; by default as in `fit`.
        progress: Show progress bars of the EM fits; by default on a terminal, after two seconds.
        throw: Raise when a search fails; otherwise the fit's ``result`` tells.

    Raises:
        TypeError: If an argument is not of the stated type, the families are coupled numerically, or their
            log-densities have kinks.
        ValueError: If the data are refused by `fit`, or an argument is out of range.
        ConvergenceError: If EM or a search for a mode does not converge and ``throw`` is true.
    """
    check_epsilons(epsilon_components, epsilon_weights, epsilon_scale)
    if not isinstance(epsilon_weights, str):
        check_epsilon_weights(epsilon_weights)
    strength = float(as_scalar("strength", strength))
    families = tuple(as_template(f) for f in (family, family if target_family is None else target_family))
    numbers = _as_numbers(num_components)
    _check_start(start)
    x, y = alike(x=in_order_of(families[0], "x", x), y=in_order_of(families[1], "y", y))
    names = column_names(x) or column_names(y)
    points = [np.asarray(as_host_or_traced(name, value)) for name, value in (("x", x), ("y", y))]
    _check_families(families, points)
    fits = [
        fit(*item, start="merge" if start is None else start[side], progress=progress, throw=throw)
        for side, item in enumerate(zip(jax.random.split(as_key(key)), points, families, numbers, strict=True))
    ]
    mixtures = fits[0].mixture, fits[1].mixture
    chosen = choose_epsilons(*mixtures, epsilon_components, epsilon_weights, epsilon_scale)
    epsilons = {"epsilon_components": chosen.components, "epsilon_weights": chosen.weights}
    both = priors, priors if target_priors is None else target_priors

    def solve(points: list[Array], mixtures: tuple[Mixture, Mixture]) -> CoupledFit:
        models = [
            mixture_model(p, f, k, priors=own, weight_concentration=weight_concentration)
            for p, f, k, own in zip(points, families, numbers, both, strict=True)
        ]
        return _solve(models, points, mixtures, strength, epsilons)

    solved = in_float64(solve, points, mixtures)
    fitted = narrow(solved, jnp.result_type(mixtures[0].components.dtype, mixtures[1].components.dtype))
    plans = (dataclasses.replace(plan, feature_names=names) for plan in (fitted.plan, fitted.uncoupled_plan))
    fitted = eqx.tree_at(lambda f: (f.plan, f.uncoupled_plan), fitted, tuple(plans))
    if throw and fitted.result == RESULTS.mode_not_found:
        for name, own in zip(("x", "y"), points, strict=True):
            refuse_constant(name, own)
    return raise_if_failed(fitted, fitted.result) if throw else fitted


def _as_numbers(num_components: Any) -> tuple[int, int]:
    """Both numbers of components."""
    if isinstance(num_components, tuple | list):
        if len(num_components) != 2:
            raise ValueError(f"`num_components` must be one number or a pair; got {num_components!r}.")
        return as_count("num_components[0]", num_components[0]), as_count("num_components[1]", num_components[1])
    return as_count("num_components", num_components), as_count("num_components", num_components)


def _check_start(start: Any) -> None:
    if start is None:
        return
    if not isinstance(start, tuple) or len(start) != 2 or not all(isinstance(m, Mixture) for m in start):
        raise TypeError(f"`start` must be a pair of mixtures; got {type(start).__name__}.")


def _check_families(families: tuple[Template, ...], points: list[np.ndarray]) -> None:
    """Raise unless gradients can follow the densities of both families and the transport between them."""
    for name, chosen in zip(("family", "target_family"), families, strict=True):
        if chosen.family.smoothness < 2:
            raise TypeError(
                f"`{name}` must have log-densities without kinks or jumps, and those of {chosen.family.__name__} "
                "components have some. Sample a NumPyro program with `transport_factor` instead."
            )
    if points[0].ndim != 2 or points[1].ndim != 2 or points[0].shape[1] != points[1].shape[1]:
        raise ValueError(
            f"`x` and `y` must have shapes [n, d] and [m, d]; got {tuple(points[0].shape)} and "
            f"{tuple(points[1].shape)}."
        )
    blanks = [chosen.blank(1, points[0].shape[1], default_dtype()) for chosen in families]
    check_differentiable(blanks[0], blanks[1])


def _solve(
    models: list[MixtureModel],
    points: list[Array],
    start: tuple[Mixture, Mixture],
    strength: float,
    epsilons: dict[str, Any],
) -> CoupledFit:
    """Both separate modes, and from there the joint one; in float64."""
    alone, found, data = [], True, [_padded(x) for x in points]
    for model, own, mixture in zip(models, data, start, strict=True):
        target = Target.of(model, *own)
        mode = find_mode(target, target.unconstrain(_inside(model, mixture)))
        alone.append(_mixture(model, target.constrain(mode.center)))
        found = found and mode.found
    uncoupled = transport(*alone, **epsilons, progress=False, throw=False)
    penalty = strength * 0.5 * sum(len(x) for x in points)
    # No mode can gain more over the separate ones than the penalty that these have.
    plan, num_searches, decrement = uncoupled, 0, penalty * float(uncoupled.objective)
    if decrement >= _FELT:
        mixtures, mode, num_searches = _joint_mode(models, data, uncoupled, penalty, epsilons)
        found, decrement = found and mode.found, mode.decrement
        plan = transport(*mixtures, **epsilons, progress=False, throw=False)
    result = plan.result if found else RESULTS.mode_not_found
    return CoupledFit(
        plan,
        uncoupled,
        _log_likelihoods(plan, points),
        _log_likelihoods(uncoupled, points),
        to_jax(strength),
        to_jax(decrement),
        to_jax(num_searches),
        result,
    )


def _padded(x: Array) -> tuple[Float[Array, "m d"], Bool[Array, " m"]]:
    """Points padded to a common number, and which of them count: data sets of about one size share their programs."""
    size = point_bucket(len(x))
    return jax.device_put((pad(np.asarray(x), size), np.arange(size) < len(x)))


def _log_likelihoods(plan: TransportPlan, points: list[Array]) -> Float[Array, " 2"]:
    pairs = zip((plan.source, plan.target), points, strict=True)
    return to_jax([np.asarray(mixture.log_prob(x)).mean() for mixture, x in pairs])


@program
def _inside(model: MixtureModel, mixture: Mixture) -> dict[str, Array]:
    """The sites of a mixture with weights away from zero, where unconstrained coordinates end."""
    sites = model.sites(mixture)
    weights = jnp.maximum(sites["weights"], _START_SHARE)
    return sites | {"weights": weights / jnp.sum(weights)}


@program
def _mixture(model: MixtureModel, sites: dict[str, Array]) -> Mixture:
    return model.mixture(sites)


class _CoupledModel(eqx.Module):
    r"""The joint posterior of two mixtures and of the coupling of their weights, as a NumPyro program.

    The penalty is itself a minimum over couplings, so that the search may run over couplings and components together:
    the weights are the marginals. As a function of the weights alone the penalty has almost a kink where groups of
    components balance, and just there its mode lies; as a function of the coupling it is smooth.

    The coupling is $\Omega = R^2 / \sum R^2$, entry by entry: small entries need not be searched at the scale of their
    logarithms. The size of R means nothing and has its mode at one.

    Attributes:
        source: The source's model.
        target: The target's model.
        penalty: Nats per squared distance.
        epsilon_components: Regularization of the component couplings.
        epsilon_weights: Regularization of the weight coupling.
    """

    source: MixtureModel
    target: MixtureModel
    penalty: Float[Array, ""]
    epsilon_components: Float[Array, ""]
    epsilon_weights: Float[Array, ""]

    def __call__(self, x: tuple[Array, Array], y: tuple[Array, Array]) -> None:
        shape = self.source.num_components, self.target.num_components
        with relaxed():
            roots = numpyro.sample("roots", dist.Normal(jnp.zeros(shape), jnp.ones(shape)).to_event(2))
            numpyro.factor("size", 0.5 * jnp.log(jnp.sum(roots**2)))
            weights = self.coupling(roots)
            source = _scoped(self.source, "source", jnp.sum(weights, axis=1), x)
            target = _scoped(self.target, "target", jnp.sum(weights, axis=0), y)
            numpyro.factor("transport", -self.penalty * self._objective(weights, source, target))

    def sites(self, mixtures: tuple[Mixture, Mixture], coupling: Float[Array, "K0 K1"]) -> dict[str, Array]:
        """The sites that describe two mixtures and a coupling of their weights, its entries kept away from zero."""
        coupling = jnp.maximum(coupling, _START_SHARE)
        sites = {"roots": jnp.sqrt(coupling / jnp.sum(coupling))}
        for name, model, mixture in zip(("source", "target"), (self.source, self.target), mixtures, strict=True):
            sites |= {f"{name}/{site}": value for site, value in model.sites(mixture).items() if site != "weights"}
        return sites

    def mixtures(self, sites: dict[str, Array]) -> tuple[Mixture, Mixture]:
        """The mixtures that sites describe."""
        coupling = self.coupling(sites["roots"])
        source = {site: sites[f"source/{site}"] for site in self.source.parameter_names}
        target = {site: sites[f"target/{site}"] for site in self.target.parameter_names}
        return (
            self.source.mixture({"weights": jnp.sum(coupling, axis=1), **source}),
            self.target.mixture({"weights": jnp.sum(coupling, axis=0), **target}),
        )

    def coupling(self, roots: Any) -> Float[Array, "K0 K1"]:
        """The coupling of the weights."""
        return roots**2 / jnp.sum(roots**2)

    def _objective(self, weights: Float[Array, "K0 K1"], source: Mixture, target: Mixture) -> Float[Array, ""]:
        """The objective of `transport` at any coupling of the weights."""
        couplings = solve_couplings(source.components, target.components, self.epsilon_components, progress=False)
        divergence = jnp.sum(weights * jnp.log(weights + _NO_MASS))
        divergence = divergence - sum(jnp.sum(w * safe_log(w)) for w in (source.weights, target.weights))
        return jnp.sum(weights * couplings.objectives()) + self.epsilon_weights * divergence


def _scoped(model: MixtureModel, name: str, weights: Float[Array, " K"], data: tuple[Array, Array]) -> Mixture:
    """Run a model of padded points with given weights, their density being that of unconstrained coordinates."""
    numpyro.factor(f"{name}/volume", jnp.sum(jnp.log(weights)))
    program: Any = handlers.scope(handlers.condition(model, {"weights": weights}), name)
    return program(*data)


def _joint_mode(
    models: list[MixtureModel],
    data: list[tuple[Array, Array]],
    start: TransportPlan,
    penalty: float,
    epsilons: dict[str, Any],
) -> tuple[tuple[Mixture, Mixture], Mode, int]:
    """The mixtures at the joint mode, the mode, and the number of searches."""
    regularization = [jnp.asarray(float(epsilons[name])) for name in ("epsilon_components", "epsilon_weights")]
    model = _CoupledModel(models[0], models[1], jnp.asarray(penalty), *regularization)
    sites = _sites(model, (start.source, start.target), start.weights)
    target = Target.of(model, *data)
    num_searches = 0
    while True:
        mode = find_mode(target, target.unconstrain(sites))
        num_searches += 1
        sites = target.constrain(mode.center)
        mixtures = _mixtures(model, sites)
        if mode.found or num_searches == _SEARCHES:
            return mixtures, mode, num_searches
        # An entry that a step has carried to zero stays there, be it a saddle: go on from the best, all positive.
        plan = transport(*mixtures, **epsilons, progress=False, throw=False)
        sites = _sites(model, mixtures, plan.weights)


@program
def _sites(model: _CoupledModel, mixtures: tuple[Mixture, Mixture], coupling: Array) -> dict[str, Array]:
    return model.sites(mixtures, coupling)


@program
def _mixtures(model: _CoupledModel, sites: dict[str, Array]) -> tuple[Mixture, Mixture]:
    return model.mixtures(sites)
