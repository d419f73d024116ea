"""Whether posteriors are right on average over their own prior: ranks of truths among draws."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from numpyro.infer import Predictive

from .._base.arguments import as_count, as_key, KeyLike
from .._base.arrays import take
from .._base.precision import relaxed
from .._components.mixture import Mixture
from .._posteriors.fit import fit_posterior
from .._posteriors.label_free import moment_names, moments
from .._posteriors.methods.method import AbstractMethod
from .._posteriors.model import MixtureModel

# Of fewer ranks a bin holds too few for the chi-square law.
_LEAST_IN_A_BIN = 5


class Calibration(eqx.Module):
    """Ranks of truths, drawn from the prior, among posterior draws; print it to read it.

    Attributes:
        names: The quantities, none of which depends on labels.
        ranks: How many of ``num_draws`` draws lie below the truth, shape ``[m, q]``: uniform on 0 ... L if the
            posterior is right.
        num_draws: The draws L that a truth is ranked among.
        converged: Whether the method says that it converged, shape ``[m]``.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    ranks: Int[np.ndarray, "m q"]
    num_draws: int = eqx.field(static=True)
    converged: Bool[np.ndarray, " m"]

    def histogram(self, num_bins: int = 10) -> Int[np.ndarray, "b q"]:
        """Ranks in bins of equal width: a slope is a bias, high ends a posterior too narrow, a high middle too wide."""
        edges = self._edges(as_count("num_bins", num_bins))
        return np.stack([np.histogram(column, edges)[0] for column in self.ranks.T], axis=1)

    @property
    def p_values(self) -> Float[np.ndarray, " q"]:
        """p-values of uniform ranks, by the chi-square test over as many bins as have five expected ranks, to ten."""
        import scipy.stats

        bins = int(np.clip(len(self.ranks) // _LEAST_IN_A_BIN, 2, 10))
        expected = len(self.ranks) * np.diff(np.ceil(self._edges(bins))) / (self.num_draws + 1)
        return np.array([scipy.stats.chisquare(column, expected).pvalue for column in self.histogram(bins).T])

    def _edges(self, num_bins: int) -> np.ndarray:
        return np.linspace(0, self.num_draws + 1, num_bins + 1) - 0.5

    def __str__(self) -> str:
        lines = [f"{'quantity':<16}{'p':>8}{'mean rank':>11}{'spread':>8}  histogram"]
        shares = (self.ranks + 0.5) / (self.num_draws + 1)
        bars = self.histogram()
        for i, (name, p) in enumerate(zip(self.names, self.p_values, strict=True)):
            spread = shares[:, i].std() * np.sqrt(12)
            counts = " ".join(map(str, bars[:, i]))
            lines.append(f"{name:<16}{p:>8.3f}{shares[:, i].mean():>11.3f}{spread:>8.3f}  {counts}")
        lines.append(f"{len(self.ranks)} truths, {int((~self.converged).sum())} not converged; spread 1 is uniform")
        return "\n".join(lines)


def calibration(
    key: KeyLike,
    model: MixtureModel,
    num_points: int,
    *,
    method: AbstractMethod | None = None,
    num_truths: int = 100,
    num_draws: int = 99,
    quantities: Callable[[Mixture], Any] | None = None,
) -> Calibration:
    """Simulation-based calibration (Talts et al., 2018): truths from the prior, data from them, posteriors of these.

    Args:
        key: Random key.
        model: A `mixture_model`, whose priors must not depend on the data: give them.
        num_points: Points of each data set.
        method: How posteriors are drawn, as in `fit_posterior`.
        num_truths: The number of truths m.
        num_draws: The draws L, evenly spaced, that a truth is ranked among; thin chains until they are independent.
        quantities: A function of a mixture that returns numbers, shape ``[q]``, which do not depend on labels; by
            default its mean, variances and largest weight.

    Raises:
        TypeError: If ``model`` is not a `mixture_model` of one of the library's families or one of your own.
        ValueError: If a posterior has fewer draws than are asked for.
    """
    if not isinstance(model, MixtureModel) or model.components is None:
        raise TypeError(f"`model` must be a mixture_model of a family that EM fits; got {type(model).__name__}.")
    num, size, draws = (
        as_count(n, v) for n, v in (("num_truths", num_truths), ("num_points", num_points), ("num_draws", num_draws))
    )
    function = jax.jit(jax.vmap(moments if quantities is None else quantities))
    truth_key, fit_key = jax.random.split(as_key(key))
    with relaxed():
        sites = Predictive(model, num_samples=num)(truth_key, num_points=size)
        data, truths = np.asarray(sites.pop("x")), jax.vmap(model.mixture)(sites)
    truth, ranks, converged = np.asarray(function(truths)), [], []
    for i, x in enumerate(data):
        posterior = fit_posterior(
            jax.random.fold_in(fit_key, i),
            x,
            model.components,
            model.num_components,
            method=method,
            priors=model.priors,
            weight_concentration=model.concentration,
            progress=False,
            throw=False,
        )
        if posterior.num_draws < draws:
            raise ValueError(f"`num_draws` must be at most the number of draws, {posterior.num_draws}; got {draws}.")
        chosen = np.linspace(0, posterior.num_draws - 1, draws).round().astype(int)
        values = np.asarray(function(take(jax.tree.map(np.asarray, posterior.mixtures), chosen)))
        ranks.append((values < truth[i]).sum(axis=0))
        converged.append(posterior.converged)
    names = tuple(f"quantity[{i}]" for i in range(truth.shape[1]))
    if quantities is None:
        names = moment_names(model.components)
    return Calibration(names, np.stack(ranks), draws, np.array(converged))
