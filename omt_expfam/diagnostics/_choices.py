"""The analyst's choices that a sweep varies."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_count
from .._pipelines.mixture_transport import MixtureTransport
from ._runs import describe

# Options whose alternatives are merged into those of the base.
_OPTIONS = ("fit_options", "transport_options")

_EPSILONS = ("epsilon_components", "epsilon_weights")
_KNOBS = ("family", "num_components", *_EPSILONS, "epsilon_scale", "seed", *_OPTIONS)

SEVERAL, METHOD = "several", "method"


if TYPE_CHECKING:
    Method = Callable[..., Any]
    Alternatives = Mapping[str, Any]
    HeldOut = float | tuple[ArrayLike, ArrayLike]
else:
    # Checked by `sweep`, with better messages than a run-time type checker's.
    Method = Alternatives = HeldOut = Any


class Choice(NamedTuple):
    """One way to do it."""

    name: str
    knob: str
    method: Callable[..., Any]
    seed: int | None = None


def choices_of(base: Method, alternatives: Alternatives, product: bool) -> list[Choice]:
    """The base and all that is to be compared with it, each once."""
    if not isinstance(alternatives, Mapping) or not alternatives:
        raise TypeError(f"`alternatives` must be a dictionary that is not empty; got {alternatives!r}.")
    methods = [callable(value) for value in alternatives.values()]
    if all(methods):
        if "base" in alternatives:
            raise ValueError('`alternatives` must not name a method "base": that is what `base` is called.')
        return [Choice("base", "", base), *(Choice(str(n), METHOD, m) for n, m in alternatives.items())]
    if any(methods):
        raise TypeError("`alternatives` must hold either methods or sequences of values, not both.")
    if not isinstance(base, MixtureTransport):
        raise TypeError(
            f"`base` must be a MixtureTransport for its fields to be varied; got {type(base).__name__}. Give "
            "`alternatives` that are methods instead."
        )
    for knob, values in alternatives.items():
        if knob not in _KNOBS:
            raise ValueError(f"`alternatives` must name {', '.join(_KNOBS)}; got {knob!r}.")
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            raise TypeError(f"`alternatives` must give a sequence of values for {knob!r}; got {values!r}.")
    if product:
        combinations = itertools.product(*alternatives.values())
        settings = [dict(zip(alternatives, values, strict=True)) for values in combinations]
    else:
        settings = [{knob: value} for knob, values in alternatives.items() for value in values]
    choices, seen = [Choice("base", "", base)], {describe((base, None))}
    for setting in settings:
        choice = _varied(base, setting)
        text = describe((choice.method, choice.seed))
        # The base itself, and what is listed twice, is done once.
        if text not in seen:
            seen.add(text)
            choices.append(choice)
    return choices


def _varied(base: MixtureTransport, setting: dict[str, Any]) -> Choice:
    fields: dict[str, Any] = {name: getattr(base, name) for name in _KNOBS if name != "seed"}
    seed, words = None, []
    for knob, value in setting.items():
        if knob == "seed":
            seed = as_count("seed", value, minimum=0)
        elif knob in _OPTIONS:
            if not isinstance(value, Mapping):
                raise TypeError(f"`alternatives` must give dictionaries for {knob!r}; got {value!r}.")
            fields[knob] = {**fields[knob], **value}
            words.append(", ".join(f"{name}={_in_short(item)}" for name, item in value.items()))
            continue
        else:
            fields[knob] = value
        words.append(f"{knob}={_in_short(value)}")
    return Choice(", ".join(words), next(iter(setting)) if len(setting) == 1 else SEVERAL, _build(fields), seed)


def _build(fields: dict[str, Any]) -> MixtureTransport:
    family, num_components = fields.pop("family"), fields.pop("num_components")
    if not any(isinstance(fields[name], str) for name in _EPSILONS):
        fields["epsilon_scale"] = 1.0
    return MixtureTransport(family, num_components, **fields)


def _in_short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(_in_short(item) for item in value)})"
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    family = getattr(value, "family", None)
    if isinstance(family, type):
        return family.__name__
    return type(value).__name__ if hasattr(value, "shape") and np.ndim(value) else str(value)


def in_words(knob: str) -> str:
    words = {
        "num_components": "the numbers of components",
        "seed": "the random start of the fits",
        "family": "the family",
        METHOD: "the method",
        SEVERAL: "a combination of choices",
    }
    return words.get(knob, f"`{knob}`")
