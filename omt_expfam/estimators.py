"""Transport as scikit-learn estimators, in the shape of POT's classes for domain adaptation; needs scikit-learn."""

import math
from typing import Any, ClassVar

import jax
import numpy as np

from families import Gaussian

from ._base.arguments import ArrayLike
from ._base.tables import column_names, in_order
from ._fitting.fit import fit
from ._plans.transport import transport
from ._potentials.fit import fit_brenier

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("The estimators need scikit-learn: pip install 'omt-expfam[estimators]'") from error


class _SampleTransport(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """What both estimators do with tables, precisions and pickles."""

    # Attributes that hold JAX's arrays.
    _fitted: ClassVar[tuple[str, ...]]

    def _read(self, X: Any, Xt: Any, least: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Source and target points, the columns of the target those of the source."""
        source = self._points(X, reset=True, ensure_min_samples=least[0])
        if Xt is None:
            raise ValueError("`Xt` must be given: the points of the target that `X` is mapped to.")
        Xt = in_order("Xt", Xt, column_names(X), "the columns of `X`")
        target = self._points(Xt, reset=False, ensure_min_samples=least[1])
        return source, target.astype(source.dtype)

    def _points(self, X: Any, **options: Any) -> np.ndarray:
        return np.asarray(validate_data(self, X, dtype=[np.float64, np.float32], **options))

    def _mapped(self, method: Any, X: Any, dtype: Any) -> np.ndarray:
        points = self._points(X, reset=False)
        with jax.enable_x64(dtype == np.float64):
            return np.array(method(points.astype(dtype)), points.dtype)

    def __getstate__(self) -> dict[str, Any]:
        # JAX reads float64 from a pickle as float32 unless its global flag says otherwise.
        state: Any = super().__getstate__()
        return state | {name: jax.tree.map(np.asarray, state[name]) for name in self._fitted if name in state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with jax.enable_x64(True):
            super().__setstate__(
                state | {name: jax.tree.map(jax.device_put, state[name]) for name in self._fitted if name in state}
            )


class MixtureTransport(_SampleTransport):
    """Fit a mixture to source and target points, couple them, and map source points to the target.

    The computation has the precision of ``X``, float64 or float32, whatever JAX's global flags.

    Args:
        family: A component family or a `template`, as for `omt_expfam.fit`; ``None`` is `families.Gaussian`.
        num_components: Number of components of the source.
        target_num_components: That of the target; ``None`` for as many.
        epsilon_components: Regularization of the component couplings, as in `omt_expfam.transport`.
        epsilon_weights: Regularization of the weights, likewise.
        epsilon_scale: Multiplies ``"auto"``.
        source_relaxation: Price of changing the source masses, as in `omt_expfam.transport`.
        target_relaxation: Price of changing the target masses.
        random_state: Seed of the fits: an integer, a NumPy generator, or ``None``.

    Attributes:
        plan_: The `TransportPlan`.
        source_fit_: The `Fit` of the source.
        target_fit_: The `Fit` of the target.
        n_features_in_: Number of features.
        feature_names_in_: Their names, where ``X`` has some.
    """

    _fitted = ("source_fit_", "target_fit_", "plan_")

    # scikit-learn sets parameters to anything; `fit` checks them.
    def __init__(
        self,
        family: Any = None,
        num_components: Any = 5,
        *,
        target_num_components: Any = None,
        epsilon_components: Any = "auto",
        epsilon_weights: Any = "auto",
        epsilon_scale: Any = 1.0,
        source_relaxation: Any = math.inf,
        target_relaxation: Any = math.inf,
        random_state: Any = None,
    ) -> None:
        self.family = family
        self.num_components = num_components
        self.target_num_components = target_num_components
        self.epsilon_components = epsilon_components
        self.epsilon_weights = epsilon_weights
        self.epsilon_scale = epsilon_scale
        self.source_relaxation = source_relaxation
        self.target_relaxation = target_relaxation
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None, Xt: ArrayLike | None = None) -> "MixtureTransport":
        """Fit both mixtures and couple them.

        Args:
            X: Source points, shape ``[n, d]``.
            y: Not used; labels of the source are carried over by `transform_labels`.
            Xt: Target points, shape ``[m, d]``, of the same features: columns of data frames are taken by name.

        Raises:
            ValueError: If the data are refused, or ``Xt`` is missing.
        """
        family = Gaussian if self.family is None else self.family
        numbers = self.num_components, self.target_num_components or self.num_components
        source, target = self._read(X, Xt, (max(2, numbers[0]), max(2, numbers[1])))
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=2)
        with jax.enable_x64(source.dtype == np.float64):
            self.source_fit_, self.target_fit_ = (
                fit(jax.random.key(int(seed)), points, family, num, progress=False)
                for seed, points, num in zip(seeds, (source, target), numbers, strict=True)
            )
            self.plan_ = transport(
                self.source_fit_,
                self.target_fit_,
                epsilon_components=self.epsilon_components,
                epsilon_weights=self.epsilon_weights,
                epsilon_scale=self.epsilon_scale,
                source_relaxation=self.source_relaxation,
                target_relaxation=self.target_relaxation,
                progress=False,
            )
        self._sides = source, target
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """The images of source points ``X[n, d]``: `TransportPlan.push_forward`."""
        check_is_fitted(self)
        return self._mapped(self.plan_.push_forward, X, self._sides[0].dtype)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """The images of target points ``X[m, d]`` in the source: `TransportPlan.pull_back`."""
        check_is_fitted(self)
        return self._mapped(self.plan_.pull_back, X, self._sides[0].dtype)

    def transform_labels(self, y: Any) -> np.ndarray:
        """The likeliest label of each target point that was fitted, from the labels ``y[n]`` of the source points."""
        check_is_fitted(self)
        source, target = self._sides
        with jax.enable_x64(source.dtype == np.float64):
            found = self.plan_.transfer(y, source, target)
        return found.labels[found.probabilities.argmax(axis=1)]


class BrenierTransport(_SampleTransport):
    """Fit the optimal map between source and target points, the gradient of a convex potential.

    The slower and more accurate of both estimators, without components: see `omt_expfam.fit_brenier`.

    Args:
        sparsity: What moving costs, or how features are selected, as in `omt_expfam.fit_brenier`.
        num_steps: Training steps, likewise.
        random_state: Seed of the training: an integer, a NumPy generator, or ``None``.

    Attributes:
        fit_: The `BrenierFit`.
        n_features_in_: Number of features.
        feature_names_in_: Their names, where ``X`` has some.
    """

    _fitted = ("fit_",)

    def __init__(self, *, sparsity: Any = None, num_steps: Any = None, random_state: Any = None) -> None:
        self.sparsity = sparsity
        self.num_steps = num_steps
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None, Xt: ArrayLike | None = None) -> "BrenierTransport":
        """Fit the map.

        Args:
            X: Source points, shape ``[n, d]``.
            y: Not used.
            Xt: Target points, shape ``[m, d]``, of the same features: columns of data frames are taken by name.

        Raises:
            ValueError: If the data are refused, or ``Xt`` is missing.
            ConvergenceError: If training fails.
        """
        source, target = self._read(X, Xt, (2, 2))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = {"sparsity": self.sparsity, "num_steps": self.num_steps, "feature_names": column_names(X)}
        with jax.enable_x64(source.dtype == np.float64):
            self.fit_ = fit_brenier(jax.random.key(seed), source, target, progress=False, **settings)
        self._dtype = source.dtype
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """The images of source points ``X[n, d]``: `BrenierMap.push_forward`."""
        check_is_fitted(self)
        return self._mapped(self.fit_.map.push_forward, X, self._dtype)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """The points ``[m, d]`` whose images the given ones are: `BrenierMap.pull_back`."""
        check_is_fitted(self)
        return self._mapped(self.fit_.map.pull_back, X, self._dtype)
