"""A fitted posterior: draws of mixtures, and the evidence that they can be trusted."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arguments import ArrayLike, as_count, as_key, as_points, KeyLike
from .._base.arrays import power_of_two, safe_log, spread_indices, take
from .._base.buckets import point_bucket
from .._base.results import RESULTS
from .._base.tables import reads_tables, tabulates
from .._base.xla import program
from .._components.columns import columns_of
from .._components.draws import count_draws
from .._components.labelling import Labelling
from .._components.mixture import Mixture
from .arviz import inference_data, leave_one_out, pareto_k_of
from .credible import credible_interval, CredibleInterval, with_caution
from .distribution import log_density
from .label_free import LabelFree
from .predictive import PredictiveCheck

# Draws of the predictive law made at once.
_BATCH = 256


class PosteriorFit(eqx.Module):
    """Draws of a mixture from its posterior, and the evidence for them.

    Draws of all chains stand one after the other, S = chains x draws, relabelled to the reference.

    Attributes:
        mixtures: S mixtures, stacked: every array has a leading axis S.
        reference: The EM optimum (or the first draw, where there is none): the draws follow its labels.
        parameters: The draws of the model's sites by name, shape ``[S, ...]``, with the same labels.
        x: The points, shape ``[n, d]``, or ``None``.
        label_free: Convergence diagnostics of quantities that do not depend on labels.
        statistics: Numbers per draw, shape ``[S]``: ``lp`` (log joint density), ``total_log_likelihood``,
            ``diverging``, and so on.
        traces: Numbers along the computation, such as the variational bound ``elbo``, in nats.
        num_relabelled: How many draws had to be relabelled.
        num_chains: Number of chains; 1 for methods whose draws are independent.
        method: What made the draws.
        result: Why it stopped.
        feature_names: Names of the columns, where the points came in a table.
        labelling: How many draws were relabelled, and whether labels mean the same in all draws; print it.
        names: Names of the components, where the posterior started at known groups (see `mixture_from_labels`).
    """

    mixtures: Mixture
    reference: Mixture
    parameters: dict[str, Array]
    x: Float[Array, "n d"] | None
    label_free: LabelFree
    statistics: dict[str, Array]
    traces: dict[str, Array]
    num_relabelled: int = eqx.field(static=True)
    num_chains: int = eqx.field(static=True)
    method: str = eqx.field(static=True)
    result: Any
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)
    labelling: Labelling | None = None
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    @property
    def num_draws(self) -> int:
        """The number of draws S."""
        return count_draws(self.mixtures)

    @property
    def num_components(self) -> int:
        """The number of components K."""
        return self.reference.num_components

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.reference.dim

    @property
    def converged(self) -> bool:
        """Whether the method met its own criteria and chains mixed."""
        return bool(self.result == RESULTS.successful)

    @property
    def pareto_k(self) -> float:
        """The Pareto k of an approximation's importance weights (Vehtari et al., 2024); NaN for other methods.

        Up to 0.7 the weights are to be trusted, and the draws are resampled by them; above, moments and intervals of
        the approximation may be off, and the posterior has not ``converged``.
        """
        weights = self.traces.get("log_weight")
        return np.nan if weights is None else pareto_k_of(np.asarray(weights, np.float64))

    @property
    def drift(self) -> float:
        """How far exact chains carry the draws of an approximation outward; NaN for other methods.

        The relative growth of the mean distance from the mode, over chains that start at draws. Near 0 where the draws
        are the posterior's. Beyond noise (and 0.05; 0.1 for the bootstrap) the posterior reaches
        farther than they do, and the approximation has not ``converged``; nor has it where the chains carry means,
        variances or the largest weight of the mixture off by a quarter of a deviation. Importance weights see
        neither where no draw has come.
        """
        found = self.traces.get("drift")
        return np.nan if found is None else float(np.asarray(found)[0])

    @property
    def num_divergences(self) -> int:
        """Transitions that diverged; 0 for methods without trajectories."""
        return int(np.sum(np.asarray(self.statistics.get("diverging", 0))))

    def mixture(self, index: int) -> Mixture:
        """One draw."""
        return take(self.mixtures, index)

    def interval(self, name: str, probability: float = 0.9) -> CredibleInterval:
        """The credible interval of a parameter, such as ``"weights"`` or ``"loc"``.

        It says so where labels are not identified and intervals of single components mean nothing.
        """
        if name not in self.parameters:
            raise ValueError(f"`name` must be one of {', '.join(self.parameters)}; got {name!r}.")
        return with_caution(credible_interval(self.parameters[name], probability), self.label_caution)

    @property
    def label_caution(self) -> str:
        """What to keep in mind of numbers of single components; nothing where labels are identified."""
        return "" if self.labelling is None else self.labelling.caution

    @reads_tables
    def log_prob(self, x: ArrayLike) -> Float[Array, " n"]:
        """Log-density of the posterior predictive law at points ``x[n, d]``: the mean of the draws' densities."""
        table = self.log_prob_draws(x)
        return jax.nn.logsumexp(table, axis=0) - np.log(self.num_draws).astype(table.dtype)

    @reads_tables
    def log_prob_draws(self, x: ArrayLike) -> Float[Array, "S n"]:
        """Log-density of every draw at points ``x[n, d]``."""
        points = as_points("x", x, self.dim, self.reference.components.dtype)
        return _log_prob_draws(self.mixtures, points)

    @tabulates(lambda posterior, **_: posterior.names or tuple(map(str, range(posterior.num_components))))
    def responsibilities(self, x: ArrayLike) -> Float[Array, "n K"]:
        """Posterior component probabilities at points ``x[n, d]``, the mean over (relabelled) draws."""
        points = as_points("x", x, self.dim, self.reference.components.dtype)
        return _mean_responsibilities(self.mixtures, points)

    def sample(self, key: KeyLike, num_samples: int) -> Float[Array, "n d"]:
        """Points from the posterior predictive law, each from the mixture of a random draw."""
        which_key, key = jax.random.split(as_key(key))
        num = as_count("num_samples", num_samples)
        # Whole batches: all equal, and few shapes to compile.
        size = min(_BATCH, power_of_two(num))
        batches = -(-num // size)
        which = jax.random.randint(which_key, (batches, size), 0, self.num_draws)
        points = _sample_each(self.mixtures, which, jax.random.split(key, batches))
        return points.reshape(-1, self.dim)[:num]

    def sample_draws(self, key: KeyLike, num_samples: int) -> Float[Array, "S n d"]:
        """Replicated data: ``num_samples`` points from the mixture of every draw."""
        keys = jax.random.split(as_key(key), self.num_draws)
        return _sample_draws(self.mixtures, keys, as_count("num_samples", num_samples))

    def predictive_check(self, key: KeyLike, num_draws: int = 200) -> PredictiveCheck:
        """Compare the data with data replicated from draws: means, deviations, skewness, quantiles, correlations.

        Args:
            key: Random key.
            num_draws: How many draws, evenly spaced, replicate the data.

        Raises:
            ValueError: If the data were not kept.
        """
        data = np.asarray(self.data())
        some = spread_indices(self.num_draws, as_count("num_draws", num_draws))
        mixtures = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[some]), self.mixtures)
        keys = jax.random.split(as_key(key), len(some))
        # Points are drawn for their bucket, and cut.
        drawn = np.asarray(_sample_draws(mixtures, keys, point_bucket(len(data))))
        return PredictiveCheck.of(data, drawn[:, : len(data)], columns_of(self.reference.components).angles)

    # -- ArviZ --------------------------------------------------------------------------------------------------------

    @property
    def inference_data(self) -> Any:
        """The draws, their statistics and the data for ArviZ: ``InferenceData``, or a ``DataTree`` from 1.0 on."""
        return self.to_arviz()

    def to_arviz(self, *, log_likelihood: bool = False, predictive: KeyLike | None = None) -> Any:
        """The posterior for ArviZ.

        Args:
            log_likelihood: Add the log-likelihood of every point under every draw, an array of S x n numbers, which
                `loo` and comparisons need.
            predictive: A random key adds replicated data, an array of S x n x d numbers, for predictive checks.

        Raises:
            ValueError: If the data are needed and were not kept.
        """
        return inference_data(self, log_likelihood, None if predictive is None else as_key(predictive))

    def loo(self) -> Any:
        """Expected log predictive density by Pareto-smoothed leave-one-out cross-validation (Vehtari et al., 2017).

        Returns:
            ArviZ's ``ELPDData``: of all points, in nats; larger is better. `arviz.compare` takes several posteriors'
            ``to_arviz(log_likelihood=True)``.

        Raises:
            ValueError: If the data were not kept.
        """
        return leave_one_out(self.to_arviz(log_likelihood=True))

    def data(self) -> Float[Array, "n d"]:
        """The points that the posterior was fitted to.

        Raises:
            ValueError: If they were not kept.
        """
        if self.x is None:
            raise ValueError("The posterior holds no data. Give `x` to `posterior_from_numpyro`.")
        return self.x

    def in_words(self) -> str:
        """One phrase on the evidence for the draws."""
        # Independent draws mix, however far they are from the posterior: of them r-hat says nothing.
        words = [f"Pareto k {self.pareto_k:.2f}"] if "log_weight" in self.traces else []
        words += [f"drift {self.drift:.2f}"] if "drift" in self.traces else []
        if self.method == "bootstrap":
            words = ["spread of refits", *(words or ["not compared with the posterior"])]
        return ", ".join(words) or self.label_free.in_words()

    def __repr__(self) -> str:
        family = type(self.reference.components).__name__
        chains = f"{self.num_chains} chains, " if self.num_chains > 1 else ""
        state = "" if self.converged else f"\n  NOT TO BE TRUSTED: {RESULTS[self.result]}"
        if self.label_caution:
            state += f"\n  CAUTION: {self.label_caution}. Costs, maps and densities do not depend on labels."
        return (
            f"PosteriorFit({self.num_draws} draws of {self.num_components} {family} components in {self.dim} "
            f"dimensions by {self.method}, {chains}{self.in_words()}, {self.num_divergences} divergences, "
            f"{self.num_relabelled} draws relabelled){state}"
        )


@program
def _log_prob_draws(mixtures: Mixture, x: Float[Array, "n d"]) -> Float[Array, "S n"]:
    return jax.lax.map(lambda m: log_density(m, x), mixtures)


@program
def _mean_responsibilities(mixtures: Mixture, x: Float[Array, "n d"]) -> Float[Array, "n K"]:
    def add(total: Array, mixture: Mixture) -> tuple[Array, None]:
        return total + mixture.responsibilities(x), None

    zero = jnp.zeros((x.shape[0], mixtures.weights.shape[1]), x.dtype)
    return jax.lax.scan(add, zero, mixtures)[0] / mixtures.weights.shape[0]


@program
def _sample_each(mixtures: Mixture, which: Int[Array, "m b"], keys: Key[Array, " m"]) -> Float[Array, "m b d"]:
    def one(draw: Mixture, key: Key[Array, ""]) -> Float[Array, " d"]:
        label_key, key = jax.random.split(key)
        label = jax.random.categorical(label_key, safe_log(draw.weights))
        return draw.components.select(label)._sample(key)

    def batch(item: tuple[Array, Array]) -> Float[Array, "b d"]:
        which, key = item
        return jax.vmap(one)(take(mixtures, which), jax.random.split(key, which.shape[0]))

    return jax.lax.map(batch, (which, keys))


@program
def _sample_draws(mixtures: Mixture, keys: Array, num: int) -> Float[Array, "S n d"]:
    return jax.lax.map(lambda item: item[0].sample(item[1], num), (mixtures, keys))


def stack_chains(draws: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draws ``[C, S, ...]`` with their chains one after the other, on the host."""
    return {name: np.asarray(value).reshape(-1, *value.shape[2:]) for name, value in draws.items()}
