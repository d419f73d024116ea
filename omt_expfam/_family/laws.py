"""Which NumPyro distributions are families: templates of them, and their classes by name."""

import functools
import inspect
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from .._base.arrays import default_dtype
from .._numerics.circle import is_circle
from .._numerics.support import ends
from .law_family import LawFamily
from .template import Template

# What the name of a family adds to that of its law.
_PREFIX, _HELD = "numpyro.", " with fixed location or scale"


def family(law: Any, **fixed: Any) -> Template:
    """A family of components that each follow a NumPyro distribution, to be fitted like any other.

    Laws of one number have independent coordinates, each with parameters of its own; laws of vectors are dependent.
    The M-step is weighted maximum likelihood in unconstrained parameters, by a few steps of BFGS from where the last
    M-step ended (generalized EM; Dempster, Laird and Rubin, 1977): any law, at some tens of evaluations a step.

    Args:
        law: A distribution class such as ``dist.Weibull``, or an example, whose parameters are where a fit starts.
        fixed: Parameters that are held fixed, numbers or one for each coordinate: ``family(dist.StudentT, df=4.0)``.

    Raises:
        TypeError: If it is no distribution of numbers or vectors that has parameters; if its support moves with them;
            or if a parameter that is no real number is not fixed.
        ValueError: If a fixed parameter is unknown or out of range.
    """
    example = law if isinstance(law, dist.Distribution) else None
    if example is not None:
        law = type(_plain(example))
        if len(example.event_shape) > 1:
            raise TypeError(
                f"`law` must be a distribution of numbers or vectors; got event shape {example.event_shape}."
            )
    cls = law_class(law, held=not {"loc", "scale", "scale_tril"}.isdisjoint(fixed))
    names = cls.parameter_names()
    if unknown := sorted(set(fixed) - set(names)):
        raise ValueError(f"{law.__name__} has no parameter {unknown[0]!r}; it has {', '.join(names)}.")
    for name in names:
        constraint = law.arg_constraints[name]
        if name not in fixed and (constraint.is_discrete or isinstance(constraint, constraints._Dependent)):
            raise TypeError(
                f"`{name}` of {law.__name__} cannot be estimated; fix it: family({law.__name__}, {name}=...)."
            )
    for name, value in fixed.items():
        constraint = law.arg_constraints[name]
        if not isinstance(constraint, constraints._Dependent) and not np.all(constraint(np.asarray(value))):
            raise ValueError(f"`{name}` of {law.__name__} must be {constraint}; got {value}.")
    held: dict[str, Any] = {name: np.asarray(value, np.float64) for name, value in fixed.items()}
    if example is None:
        return _with_moments(Template(cls, held), 2)
    plain = _plain(example)
    start = {name: np.asarray(getattr(plain, name), np.float64) for name in names if name not in fixed}
    return _with_moments(Template(cls, held | {"start": start}), tuple(example.event_shape)[0] if cls.vector else 2)


def _with_moments(template: Template, dim: int) -> Template:
    """The template, where means and covariances have a formula."""

    def moments() -> Any:
        one = jax.tree.map(lambda leaf: leaf[0], template.blank(1, dim, default_dtype()))
        return one._mean(), one._covariance()

    try:
        jax.eval_shape(moments)
    except NotImplementedError:
        name = template.family.__name__.removeprefix(_PREFIX)
        raise TypeError(f"`law` must have a mean and a variance by formula; NumPyro has none for {name}.") from None
    return template


def _plain(law: Any) -> Any:
    """The distribution inside `Independent` and `ExpandedDistribution`."""
    while isinstance(law, dist.Independent | dist.ExpandedDistribution):
        law = law.base_dist
    return law


def law_class(law: Any, held: bool = False) -> type[LawFamily]:
    """The family of a distribution class, one for each; another one where locations or scales are held fixed."""
    return _law_class(law, held)


@functools.cache
def _law_class(law: Any, held: bool) -> type[LawFamily]:
    if not (inspect.isclass(law) and issubclass(law, dist.Distribution)):
        hint = ", such as dist.BinomialProbs for dist.Binomial" if callable(law) else ""
        raise TypeError(f"`law` must be a NumPyro distribution, a class or an example{hint}; got {law!r}.")
    support = inspect.getattr_static(law, "support")
    if isinstance(support, constraints._Dependent | property) or not isinstance(support, constraints.Constraint):
        if not getattr(support, "is_discrete", None):
            raise TypeError(f"`law` must have one support for all parameters; {law.__name__}'s moves with them.")
        # Counts below a number that is a parameter.
        support = constraints.nonnegative_integer
    vector = support is constraints.real_vector
    if not vector:
        try:
            ends(support)
        except TypeError:
            raise TypeError(
                f"`law` must be a distribution of numbers on an interval, of counts or of real vectors; {law.__name__} "
                f"has the support {support}."
            ) from None
    if is_circle(support):
        raise TypeError(
            f"`law` must not be one of angles, whose likelihoods have other optima; got {law.__name__}. Use "
            "`omt.families.VonMises`, or derive from `extend.AbstractFactorizedFamily`."
        )
    if not law.arg_constraints:
        raise TypeError(f"`law` must have parameters of its own; {law.__name__} has none.")
    scale = "scale_tril" if vector else "scale"
    moves = (vector or support is constraints.real) and {"loc", scale} <= set(law.arg_constraints) and not held
    members = {
        "__module__": __name__,
        "__doc__": f"Components that follow NumPyro's {law.__name__}.",
        "law": law,
        "support": constraints.real if vector else support,
        "standardization": "coordinate" if moves else "none",
        "vector": vector,
        "__annotations__": {},
    }
    meta: Any = type(LawFamily)
    return meta(_PREFIX + law.__name__ + held * _HELD, (LawFamily,), members)


def law_of_name(name: str) -> type[LawFamily] | None:
    """The family that a file names, where it is one of NumPyro's own distributions."""
    law = getattr(dist, name.removeprefix(_PREFIX).removesuffix(_HELD), None) if name.startswith(_PREFIX) else None
    return None if law is None else law_class(law, name.endswith(_HELD))
