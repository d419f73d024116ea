"""Densities, draws and moments of components against each other, by importance sampling.

Draws of a heavy-tailed law on the same support, weighted by the density, have the law of the density: their weights
average to one, and their means of any function are its means. The sampler and the moments are a second and a third
opinion; where two of the three agree, the other is wrong.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..._components.interface import AbstractComponents
from ..._numerics.categories import is_categories
from ..._numerics.circle import is_circle, wrap
from ..._numerics.support import Constraint, ends
from .findings import Finding

# Standard errors that chance explains; the share of a scale that a moment may be off besides, for moments that a family
# estimates; and the least number of weighted draws that are worth of something.
_ERRORS, _SLACK, _FEWEST = 6.0, 0.01, 400.0
# Half of the proposals are so much wider than the draws, in case these are wrong.
_WIDE = 4.0

_Points = Float[np.ndarray, "n d"]


class _Sample(NamedTuple):
    """Points with weights."""

    points: _Points
    weight: Float[np.ndarray, " n"]

    def mean(self, values: Any) -> tuple[np.ndarray, np.ndarray]:
        """Weighted means of the columns of ``values[n, m]``, and their standard errors."""
        share = self.weight / self.weight.sum()
        center = share @ values
        return center, np.sqrt((share**2) @ (values - center) ** 2)

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The mean and its errors, and the covariance, flat, and its errors."""
        mean, error = self.mean(self.points)
        offset = self.points - mean
        products = (offset[:, :, None] * offset[:, None, :]).reshape(len(offset), -1)
        return mean, error, *self.mean(products)


def law_findings(components: AbstractComponents, draws: Float[np.ndarray, "n K d"], seed: int) -> list[Finding]:
    """Whether densities integrate to one, and whether draws and moments are theirs.

    Args:
        components: K components, in float64.
        draws: Their draws.
        seed: Of the draws for weighing.
    """
    support = components.support
    outside = 1 - np.asarray(support(draws)).mean()
    found = [Finding("_sample", "draws outside the support", float(outside), 0.0)]
    if outside:
        return found
    random = np.random.default_rng(seed)
    means, covariances = (np.asarray(v, np.float64) for v in (components.mean(), components.covariance()))
    for k in range(components.num_components):
        one = components.select([k])
        # Angles as arcs from the stated mean, about which nothing is wrapped.
        origin = means[k] if is_circle(support) else np.zeros_like(means[k])
        own = wrap(draws[:, k] - origin, np) if is_circle(support) else draws[:, k]
        sampled = _Sample(own, np.ones(len(own)))
        proposal = _Proposal(sampled.points, support)
        points, log_density = proposal.draw(random, len(own))
        with np.errstate(over="ignore"):
            weight = np.exp(np.asarray(one.log_prob(points + origin), np.float64)[:, 0] - log_density)
        compared = _compare(k, sampled, points, weight, proposal, means[k] - origin, covariances[k])
        # Categories have no moments.
        kept = ("_sample", "_log_prob", "_sample, _log_prob") if is_categories(support) else None
        found += [finding for finding in compared if kept is None or finding.method in kept]
    return found


def _compare(
    k: int,
    sampled: _Sample,
    points: _Points,
    weight: Float[np.ndarray, " n"],
    proposal: "_Proposal",
    mean: np.ndarray,
    covariance: np.ndarray,
) -> list[Finding]:
    where = f"of component {k}"
    total, error = weight.mean(), weight.std() / math.sqrt(len(weight))
    if not np.isfinite(total) or total == 0:
        return [Finding("_log_prob", f"the density {where} integrates to {total:.4g}", math.inf, 0.0)]
    if weight.sum() ** 2 / (weight @ weight) < _FEWEST:
        return []
    integral = Finding(
        "_log_prob", f"the density {where} integrates to {total:.4g}", abs(total - 1), _ERRORS * error + 1e-3
    )
    # Points without weight may be as far out as numbers go.
    weighed = _Sample(points[weight > 0], weight[weight > 0])
    # Bounded functions, for which heavy tails do not matter.
    drawn = _excess(*sampled.mean(proposal.features(sampled.points)), *weighed.mean(proposal.features(weighed.points)))
    scale = np.sqrt(np.diagonal(covariance))
    slack = _SLACK * np.concatenate([scale, 2 * np.outer(scale, scale).ravel()])
    stated = np.concatenate([mean, covariance.ravel()])
    first = slice(None, len(mean)), slice(len(mean), None)

    def off(sample: _Sample) -> list[float]:
        """By how much the stated mean and covariance are off, relative to what is allowed."""
        centers, errors = (np.concatenate(v) for v in (sample.moments()[::2], sample.moments()[1::2]))
        ratio = _ratio(np.abs(centers - stated), _ERRORS * errors + slack)
        return [float(ratio[part].max()) for part in first]

    by_draws, by_density = off(sampled), off(weighed)
    # The moments say which of the two is wrong, where they agree with the other.
    verdicts = {(True, False): "_sample", (False, True): "_log_prob"}
    who = verdicts.get((max(by_draws) > 1, max(by_density) > 1), "_sample, _log_prob")
    findings = [integral, Finding(who, f"draws against the density {where}, in allowed differences", drawn, 1.0)]
    for method, left, right in zip(("_mean", "_covariance"), by_draws, by_density, strict=True):
        # Wrong only where both contradict it; otherwise it is the one that differs from the other that is wrong.
        gap = min(left, right) if drawn > 1 else max(left, right)
        findings.append(Finding(method, f"against draws and density {where}, in allowed differences", gap, 1.0))
    return findings


def _excess(left: np.ndarray, left_error: np.ndarray, right: np.ndarray, right_error: np.ndarray) -> float:
    return float(_ratio(np.abs(left - right), _ERRORS * np.hypot(left_error, right_error) + 1e-3).max())


def _ratio(gap: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    return np.nan_to_num(gap / allowed, nan=np.inf, posinf=np.inf)


class _Proposal:
    """Student-t laws with two degrees of freedom, wide about given draws, carried onto a support."""

    def __init__(self, draws: _Points, support: Constraint):
        self._support, self._discrete = ends(support), support.is_discrete
        u = draws if self._discrete else self._unbounded(draws)
        low, self.center, high = np.quantile(u, [0.16, 0.5, 0.84], axis=0)
        least = 1.0 if self._discrete else 1e-12 * (1 + np.abs(self.center))
        self.scale = np.maximum(0.6 * (high - low), least)
        z = np.clip((u - self.center) / self.scale, -3, 3)
        spread = np.cov(z.T).reshape(len(self.center), -1) + 1e-3 * np.eye(len(self.center))
        size = np.sqrt(np.diagonal(spread))
        self._root = np.linalg.cholesky(spread / np.outer(size, size))

    def features(self, points: _Points) -> np.ndarray:
        """Bounded functions of points, shape ``[n, m]``."""
        u = points if self._discrete else self._unbounded(points)
        z = (u - self.center) / self.scale
        bent = np.tanh(z)
        rows, columns = np.triu_indices(z.shape[1], 1)
        pairs = bent[:, rows[:50]] * bent[:, columns[:50]]
        return np.concatenate([bent, 1 / (1 + z**2), pairs], axis=1)

    def draw(self, random: np.random.Generator, num: int) -> tuple[_Points, np.ndarray]:
        """Points and the log-densities of their law."""
        wide = np.where(random.random(num) < 0.5, _WIDE, 1.0)[:, None]
        return (self._whole if self._discrete else self._continuous)(random, wide)

    def _continuous(self, random: np.random.Generator, wide: np.ndarray) -> tuple[_Points, np.ndarray]:
        dim = len(self.center)
        normal = random.standard_normal((len(wide), dim)) @ self._root.T
        z = wide * normal / np.sqrt(random.exponential(1.0, (len(wide), 1)))
        u = self.center + self.scale * z
        log_det = np.log(np.diagonal(self._root)).sum() + np.log(self.scale).sum()
        square = np.sum(np.linalg.solve(self._root, z.T) ** 2, axis=0)
        # Two degrees of freedom: Gamma(d / 2 + 1) / Gamma(1) / (2 pi)^(d / 2) (1 + r^2 / 2)^-(d / 2 + 1).
        half = 0.5 * dim
        constant = math.lgamma(half + 1) - half * math.log(2 * math.pi) - log_det
        each = [constant - dim * math.log(w) - (half + 1) * np.log1p(0.5 * square / w**2) for w in (1.0, _WIDE)]
        points, log_slope = self._bounded(u)
        # Where rounding puts a point on the end of a support it is not inside any more.
        inside = np.all((points > self._support[0]) & (points < self._support[1]), axis=1)
        log_density = np.where(inside, np.logaddexp(*each) - math.log(2) - log_slope, np.inf)
        return np.where(inside[:, None], points, self._bounded(self.center[None])[0]), log_density

    def _whole(self, random: np.random.Generator, wide: np.ndarray) -> tuple[_Points, np.ndarray]:
        """Rounded draws of independent coordinates, those beyond an end at the end."""
        shape = len(wide), len(self.center)
        z = wide * random.standard_normal(shape) / np.sqrt(random.exponential(1.0, shape))
        points = np.clip(np.round(self.center + self.scale * z), *self._support)

        def below(x: np.ndarray, w: float) -> np.ndarray:
            t = (x - self.center) / self.scale / w
            return 0.5 + 0.5 * t / np.sqrt(2 + t**2)

        lower, upper = self._support
        each = []
        for w in (1.0, _WIDE):
            high = np.where(points == upper, 1.0, below(points + 0.5, w))
            each.append(np.log(high - np.where(points == lower, 0.0, below(points - 0.5, w))).sum(axis=1))
        return points, np.logaddexp(*each) - math.log(2)

    def _unbounded(self, x: _Points) -> _Points:
        lower, upper = self._support
        if math.isfinite(lower) and math.isfinite(upper):
            return np.log(x - lower) - np.log(upper - x)
        return np.log(x - lower) if math.isfinite(lower) else -np.log(upper - x) if math.isfinite(upper) else x

    def _bounded(self, u: _Points) -> tuple[_Points, np.ndarray]:
        """Points of the support, and the log-determinant of the way there."""
        lower, upper = self._support
        u = np.clip(u, -500, 500) if math.isfinite(lower) or math.isfinite(upper) else u
        if math.isfinite(lower) and math.isfinite(upper):
            share = 1 / (1 + np.exp(-u))
            slope = math.log(upper - lower) - np.logaddexp(0, u) - np.logaddexp(0, -u)
            return lower + (upper - lower) * share, slope.sum(axis=1)
        if math.isfinite(lower):
            return lower + np.exp(u), u.sum(axis=1)
        if math.isfinite(upper):
            return upper - np.exp(-u), -u.sum(axis=1)
        return u, np.zeros(len(u))
