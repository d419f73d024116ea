"""Ways to transport maps, each a function of a key and two samples.

What it returns has ``push_forward``, a map from source points ``[n, d]`` to points ``[n, d]``, and ``pull_back``, a map
of target points: a plan of this library, or `Maps`. A method may have ``tuned(key, x, y)``, the method with its free
parameters chosen on the data alone.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

import omt_expfam as omt
from omt_expfam.families import Gaussian

Map = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Maps:
    """The two maps that a method found.

    Attributes:
        push_forward: From source to target.
        pull_back: From target to source; some methods solve for it at its first call.
        converged: Whether each solve so far did.
    """

    push_forward: Map
    pull_back: Map
    converged: list[bool] = dataclasses.field(default_factory=list)


def images(found: Any, points: Any) -> np.ndarray:
    """Images of the points under a map, or under the forward map of what a method found."""
    return np.asarray(getattr(found, "push_forward", found)(points), np.float32)


def back_images(found: Any, points: Any) -> np.ndarray:
    """Images of target points under the backward map of what a method found."""
    return np.asarray(found.pull_back(points), np.float32)


# -- choosing without the true map ------------------------------------------------------------------------------------


def halves(key: Any, *samples: Any, share: float = 0.8) -> list[tuple[Any, Any]]:
    """Each sample in two parts at random: to fit, and held out."""
    keys = jax.random.split(key, len(samples))
    mixed = [jax.random.permutation(k, jnp.asarray(x), axis=0) for k, x in zip(keys, samples, strict=True)]
    return [(x[: round(share * len(x))], x[round(share * len(x)) :]) for x in mixed]


def mismatch(found: Any, x: Any, y: Any) -> float:
    """Sinkhorn divergence between the images of held-out source points and held-out target points."""
    # A tenth of the target's total variance, a twentieth of the mean squared distance of its points.
    epsilon = 0.1 * jnp.sum(jnp.var(y, axis=0))
    return float(omt.metrics.sinkhorn_divergence(images(found, x), np.asarray(y, np.float32), epsilon))


@dataclasses.dataclass(frozen=True)
class BestOf:
    """The candidate whose images of held-out points are closest to the held-out target points."""

    candidates: tuple[Any, ...]

    def tuned(self, key: Any, x: Any, y: Any) -> Any:
        split_key, fit_key = jax.random.split(key)
        (fit_x, test_x), (fit_y, test_y) = halves(split_key, x, y)
        found = (method(jax.random.clone(fit_key), fit_x, fit_y) for method in self.candidates)
        scores = [mismatch(transport_map, test_x, test_y) for transport_map in found]
        return self.candidates[int(np.nanargmin(scores))]


# -- mixtures ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """Mixtures of Gaussians, fitted and coupled by this library.

    Attributes:
        num_components: Components of source and target; ``None`` where they are to be chosen.
        epsilon: Both regularizations, in units of squared distance; ``None`` for the unregularized plan and map of
            mixtures (Delon and Desolneux 2020) as POT computes them, between the very same fitted mixtures.
        candidates: Numbers of components to choose from.
        family: Family of the components, one of the Gaussian ones.
    """

    num_components: tuple[int, int] | None
    epsilon: float | None = 0.01
    candidates: tuple[int, ...] = (4, 8, 15, 30, 60)
    family: Any = Gaussian

    def __call__(self, key: Any, x: Any, y: Any) -> Any:
        if self.num_components is None:
            raise ValueError("choose the numbers of components with `tuned` first.")
        if self.epsilon is not None:
            method = omt.diagnostics.MixtureTransport(
                self.family, self.num_components, epsilon_components=self.epsilon, epsilon_weights=self.epsilon
            )
            return jax.block_until_ready(method(key, x, y))
        fits = [
            omt.fit(k, points, self.family, num, progress=False).mixture
            for k, points, num in zip(jax.random.split(key), (x, y), self.num_components, strict=True)
        ]
        return UnregularizedPlan(*fits)

    def tuned(self, key: Any, x: Any, y: Any) -> "Mixtures":
        """With as many components on both sides as serve this library's map best by `BestOf`.

        The likelihood of held-out points is no guide to a map: the source of the Wasserstein-2 benchmark has three
        components, and a map that is nearly affine on each of them is a poor one.
        """
        if self.num_components is not None:
            return self
        numbers = [number for number in self.candidates if number * 10 <= min(len(x), len(y))]
        tried = [Mixtures((number, number), family=self.family) for number in numbers]
        return dataclasses.replace(BestOf(tuple(tried)).tuned(key, x, y), epsilon=self.epsilon)


@dataclasses.dataclass(frozen=True)
class MixtureDraws:
    """Draws from POT's coupling of mixtures: each point by the affine map of one pair of components, drawn for it.

    Attributes:
        mixtures: The mixtures, with no ``epsilon``.
    """

    mixtures: Mixtures

    def __call__(self, key: Any, x: Any, y: Any) -> Maps:
        plan = self.mixtures(key, x, y)
        seed = int(jax.random.randint(jax.random.fold_in(key, 1), (), 0, 2**31 - 1))
        return Maps(
            lambda points: plan.push_forward(points, seed),
            lambda points: plan.pull_back(points, seed),
        )


class UnregularizedPlan:
    """Optimal coupling of two mixtures' components without regularization, and its barycentric maps, by POT.

    Attributes:
        weights: The coupling matrix, shape ``[K0, K1]``.
    """

    def __init__(self, source: Any, target: Any) -> None:
        both = source, target
        self._means = [np.asarray(m.components.mean(), np.float64) for m in both]
        self._covariances = [np.asarray(m.components.covariance(), np.float64) for m in both]
        weights = [np.asarray(m.weights, np.float64) for m in both]
        self._weights = [w / w.sum() for w in weights]
        self.weights = ot.gmm.gmm_ot_plan(*self._means, *self._covariances, *self._weights)

    def push_forward(self, x: Any, seed: int | None = None) -> np.ndarray:
        """The barycentric map, or draws with a seed."""
        return self._apply(x, slice(None), self.weights, seed)

    def pull_back(self, y: Any, seed: int | None = None) -> np.ndarray:
        """The barycentric map of the same coupling from target to source, or draws with a seed."""
        return self._apply(y, slice(None, None, -1), self.weights.T, seed)

    def _apply(self, points: Any, order: slice, weights: np.ndarray, seed: int | None) -> np.ndarray:
        method = "bary" if seed is None else "rand"
        arguments = [each for pair in (self._means, self._covariances, self._weights) for each in pair[order]]
        # Its ratios of densities may overflow, to a share of zero.
        with np.errstate(over="ignore"):
            return ot.gmm.gmm_ot_apply_map(
                np.asarray(points, np.float64), *arguments, plan=weights, method=method, seed=seed
            )


@dataclasses.dataclass(frozen=True)
class Linear:
    """The optimal map between the normal laws of the samples' means and covariances, and its inverse."""

    def __call__(self, key: Any, x: Any, y: Any) -> Maps:
        samples = [np.asarray(points, np.float64) for points in (x, y)]
        matrix, shift = ot.gaussian.empirical_bures_wasserstein_mapping(*samples, reg=1e-9)
        inverse = np.linalg.inv(matrix)
        return Maps(
            lambda points: np.asarray(points, np.float64) @ matrix + shift,
            lambda points: (np.asarray(points, np.float64) - shift) @ inverse,
        )


# -- convex potentials -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Potential:
    """The gradient of convex potentials, fitted by this library.

    Attributes:
        settings: Arguments of `omt.fit_brenier`, by name; by default none.
    """

    settings: tuple[tuple[str, Any], ...] = ()

    def __call__(self, key: Any, x: Any, y: Any) -> Maps:
        found = omt.fit_brenier(key, x, y, progress=False, throw=False, **dict(self.settings))
        return Maps(
            found.map.push_forward,
            lambda points: found.map.solve_pull_back(points).points,
            [found.converged],
        )


# -- entropic maps between samples (OTT-JAX) --------------------------------------------------------------------------


class Solve(NamedTuple):
    """An entropic coupling of two samples: their potentials, the regularization, and whether the solver converged."""

    x: Any
    y: Any
    f: Any
    g: Any
    epsilon: Any
    converged: Any

    def exchanged(self) -> "Solve":
        """The same coupling from target to source."""
        return Solve(self.y, self.x, self.g, self.f, self.epsilon, self.converged)


@functools.partial(jax.jit, static_argnames="max_iterations")
def _sinkhorn(x: Any, y: Any, scale: Any, max_iterations: int) -> Solve:
    default = pointcloud.PointCloud(x, y).epsilon
    problem = linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=scale * default))
    out = sinkhorn.Sinkhorn(max_iterations=max_iterations)(problem)
    return Solve(x, y, out.f, out.g, scale * default, out.converged)


@jax.jit
def _entropic_images(points: Any, solve: Solve) -> Any:
    problem = linear_problem.LinearProblem(pointcloud.PointCloud(solve.x, solve.y, epsilon=solve.epsilon))
    # The gradient of the potential's extension, as in the library's `DualPotentials.transport` for this cost.
    potential = problem.potential_fn_from_dual_vec(solve.g, epsilon=solve.epsilon, axis=1)
    return points - 0.5 * jax.vmap(jax.grad(potential))(points)


def _in_parts(function: Map, points: Any, size: int = 2000) -> Any:
    """A map of points, some at a time: its memory is that of all pairs with the training points, times d."""
    points = jnp.asarray(points, jnp.float32)
    return jnp.concatenate([function(points[i : i + size]) for i in range(0, len(points), size)])


@dataclasses.dataclass(frozen=True)
class Entropic:
    """Entropic maps between samples, composed in steps along the way to the target (one step: the entropic map).

    Several steps are progressive transport, ProgOT (Kassraie et al. 2024), with equal steps: all points move the first
    part of the way, and the rest is solved anew from there. The loop is ours and the solver is OTT-JAX's, since
    `ott.tools.progot` 0.6.0 takes the steps of its training points from where they began, and those of transported
    points from where they are.

    Attributes:
        scale: Regularization over OTT-JAX's default, which is a twentieth of the deviation of the cost matrix.
        num_steps: Number of steps.
        max_iterations: Limit on the iterations of each solve.
    """

    scale: float = 1.0
    num_steps: int = 1
    max_iterations: int = 2000

    def __call__(self, key: Any, x: Any, y: Any) -> Maps:
        """The way back of one step is that of the same solve; that of several is solved anew, at its first call."""
        solves = self._solve(x, y)
        converged = [bool(solve.converged) for solve in solves]

        @functools.cache
        def back() -> list[Solve]:
            if self.num_steps == 1:
                return [solves[0].exchanged()]
            found = self._solve(y, x)
            converged.extend(bool(solve.converged) for solve in found)
            return found

        return Maps(
            lambda points: self._compose(solves, points), lambda points: self._compose(back(), points), converged
        )

    def _solve(self, x: Any, y: Any) -> list[Solve]:
        """One coupling per step, of the source points moved so far to the target points."""
        x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
        solves, now = [], x
        for step in range(self.num_steps):
            solves.append(_sinkhorn(now, y, self.scale, self.max_iterations))
            if step < self.num_steps - 1:
                now = self._move(solves[-1], step, now)
        return jax.block_until_ready(solves)

    def _move(self, solve: Solve, step: int, points: Any) -> Any:
        images = _in_parts(lambda part: _entropic_images(part, solve), points)
        return points + (images - points) / (self.num_steps - step)

    def _compose(self, solves: list[Solve], points: Any) -> Any:
        points = jnp.asarray(points, jnp.float32)
        for step, solve in enumerate(solves):
            points = self._move(solve, step, points)
        return points


# -- a neural map (OTT-JAX) -------------------------------------------------------------------------------------------


@functools.cache
def _neural_solver(dim: int, num_iterations: int, width: int, rate: float) -> tuple[Any, Any]:
    import optax
    from ott.neural.methods import expectile_neural_dual
    from ott.neural.networks import potentials

    networks = [potentials.MLP(dim_hidden=[width, width, width, 1], act_fn=jax.nn.elu) for _ in range(2)]
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, num_iterations, alpha=0.01), b1=0.9, b2=0.9)
    solver = expectile_neural_dual.ExpectileNeuralDual(
        dim, *networks, optimizer, optimizer, num_train_iters=num_iterations, valid_freq=num_iterations + 1
    )
    return solver, optimizer


@dataclasses.dataclass(frozen=True)
class Neural:
    """Expectile-regularized neural dual (Buzun et al. 2024) with small networks; needs flax and diffrax.

    The way back is the gradient of the target's potential, from the same training.

    Attributes:
        num_iterations: Steps of Adam, whose rate falls as a cosine.
        batch_size: Points of each step.
        width: Units of each of three hidden layers.
        rate: First rate.
    """

    num_iterations: int = 3000
    batch_size: int = 256
    width: int = 64
    rate: float = 1e-3

    def __call__(self, key: Any, x: Any, y: Any) -> Maps:
        solver, optimizer = _neural_solver(x.shape[1], self.num_iterations, self.width, self.rate)
        seed, *keys = jax.random.split(key, 3)
        # The compiled step is kept; only the networks begin anew.
        solver.state_f, solver.state_g = (
            network.create_train_state(k, optimizer, (x.shape[1],))
            for network, k in zip((solver.neural_f, solver.neural_g), keys, strict=True)
        )
        rng = np.random.default_rng(np.asarray(jax.random.key_data(seed)))

        def batches(points: Any) -> Any:
            points = np.asarray(points, np.float32)
            while True:
                yield points[rng.integers(0, len(points), self.batch_size)]

        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            found = solver(*(batches(points) for points in (x, y, x, y)))
        transport = jax.jit(found.transport, static_argnames="forward")
        jax.block_until_ready(solver.state_f.params)
        return Maps(
            lambda points: transport(jnp.asarray(points, jnp.float32)),
            lambda points: transport(jnp.asarray(points, jnp.float32), forward=False),
        )


def has_neural() -> bool:
    """Whether what the neural method needs is installed."""
    try:
        from ott.neural.methods import expectile_neural_dual  # noqa: F401
    except ImportError:
        return False
    return True
