"""The method whose stability is studied: fit both mixtures, transport one to the other."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike, ScalarLike
from .._base.tables import alike
from .._components.mixture import MixtureLike
from .._fitting.fit import Fit, fit
from .._plans.epsilons import check_epsilons, EpsilonLike
from .._plans.plan import TransportPlan
from .._plans.transport import transport


class MixtureTransport(eqx.Module):
    """From two data sets to a plan, called as ``method(key, x, y)``.

    The studies take any function of a key and two data sets that returns a `TransportPlan`, a `BrenierFit`, or a map
    from points ``[n, d]`` to points ``[n, d]``; this is the one that the library exists for.

    Attributes:
        family: A component family, or a pair of them for source and target, as in `omt_expfam.fit`.
        num_components: Number of components, or a pair of numbers for source and target.
        epsilon_components: Regularization of the component couplings, units of squared distance, or ``"auto"``; see
            `omt_expfam.transport`.
        epsilon_weights: Regularization of the weights, likewise.
        epsilon_scale: Multiplies ``"auto"``.
        fit_options: Options of `omt_expfam.fit` for both fits.
        transport_options: Options of `omt_expfam.transport`.
    """

    family: Any
    num_components: Any
    epsilon_components: float | str
    epsilon_weights: float | str
    epsilon_scale: float
    fit_options: dict[str, Any]
    transport_options: dict[str, Any]

    def __init__(
        self,
        family: Any,
        num_components: Any,
        *,
        epsilon_components: EpsilonLike = "auto",
        epsilon_weights: EpsilonLike = "auto",
        epsilon_scale: ScalarLike = 1.0,
        fit_options: dict[str, Any] | None = None,
        transport_options: dict[str, Any] | None = None,
    ) -> None:
        check_epsilons(epsilon_components, epsilon_weights, epsilon_scale)
        self.family = family
        self.num_components = tuple(as_count("num_components", k) for k in pair_of("num_components", num_components))
        self.epsilon_components, self.epsilon_weights = (
            value if isinstance(value, str) else float(value) for value in (epsilon_components, epsilon_weights)
        )
        self.epsilon_scale = float(epsilon_scale)
        self.fit_options = {"progress": False, **(fit_options or {})}
        self.transport_options = {"progress": False, **(transport_options or {})}

    def __call__(
        self, key: KeyLike, x: Float[Array, "n d"] | ArrayLike, y: Float[Array, "m d"] | ArrayLike
    ) -> TransportPlan:
        """Fit both mixtures, with one half of the key each, and couple them."""
        source_key, target_key = jax.random.split(as_key(key))
        x, y = alike(x=x, y=y)
        return self.couple(self.fit_source(source_key, x), self.fit_target(target_key, y))

    def fit_source(self, key: KeyLike, x: Float[Array, "n d"] | ArrayLike, **options: Any) -> Fit:
        """Fit the source mixture; ``method(key, x, y)`` gives it the first of the two keys that its own splits into.

        Args:
            key: Random key.
            x: Points, shape ``[n, d]``.
            **options: Override ``fit_options``.
        """
        return fit(key, x, pair_of("family", self.family)[0], self.num_components[0], **self.fit_options | options)

    def fit_target(self, key: KeyLike, y: Float[Array, "m d"] | ArrayLike, **options: Any) -> Fit:
        """Fit the target mixture, likewise; ``method(key, x, y)`` gives it the second key."""
        return fit(key, y, pair_of("family", self.family)[1], self.num_components[1], **self.fit_options | options)

    def couple(self, source: MixtureLike, target: MixtureLike) -> TransportPlan:
        """Couple two mixtures."""
        return transport(
            source,
            target,
            epsilon_components=self.epsilon_components,
            epsilon_weights=self.epsilon_weights,
            epsilon_scale=self.epsilon_scale,
            **self.transport_options,
        )


def pair_of(name: str, value: Any) -> tuple[Any, Any]:
    """Source's and target's value, of one given for both or of a pair."""
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ValueError(f"`{name}` must be one value or a pair for source and target; got {len(value)} values.")
    return tuple(value)
