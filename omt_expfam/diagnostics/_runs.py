"""Runs of a study: jobs, failures, and checkpoints from which it is taken up again."""

import dataclasses
import functools
import hashlib
import os
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._base.arrays import default_dtype
from .._base.progress import progress_bar
from .._base.results import RESULTS
from .._files.tree import read_object, write_object

# What a fit or a solve that fails raises; mistakes in a program (TypeError and the like) are none of these.
FAILURES = (RuntimeError, ValueError, ArithmeticError)


class Job(NamedTuple):
    """A run that is to be done: its name in the file, itself, what it is in words, and what is known if it fails."""

    name: str
    run: Callable[[], tuple[dict[str, float], str]]
    words: str
    known: dict[str, float]


class Checkpoint:
    """Finished runs of a study, by name, kept in a file when there is one.

    Attributes:
        rows: Numbers of each finished run, and why it failed, ``""`` if it did not.
        reference: Numbers of the run that all others are compared with; ``None`` before it is known.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, kind: str, columns: tuple[str, ...], inputs: dict[str, Any]
    ) -> None:
        """Read the file, if there is one.

        Raises:
            ValueError: If the file holds something else, or a study of other inputs.
        """
        self._path, self._kind, self._columns = path, kind, columns
        self._inputs = {name: describe(value) for name, value in {"precision": default_dtype(), **inputs}.items()}
        self.rows: dict[str, tuple[np.ndarray, str]] = {}
        self.reference: dict[str, float] | None = None
        if path is not None and os.path.exists(path):
            self._read(os.fspath(path))

    def _read(self, path: str) -> None:

        held = read_object(path, {})
        if not isinstance(held, dict) or held.get("study") != self._kind or held.get("columns") != list(self._columns):
            raise ValueError(f"`checkpoint` must be a file of this kind of study ({self._kind}); {path} is none.")
        differing = [name for name, text in self._inputs.items() if held["inputs"].get(name) != text]
        if differing:
            names = ", ".join(f"`{name}`" for name in differing)
            raise ValueError(f"`checkpoint` {path} holds a study of other inputs: {names}. Give another file.")
        self.reference = held["reference"]
        self.rows = {
            name: (values, reason)
            for name, values, reason in zip(held["names"], held["values"], held["reasons"], strict=True)
        }

    def set_reference(self, numbers: dict[str, float]) -> None:
        """Keep the numbers of the reference.

        Raises:
            ValueError: If finished runs were compared with another reference: the method does not repeat itself.
        """
        if self.reference is None:
            self.reference = numbers
            self._write()
        old = np.array([self.reference[name] for name in numbers])
        if not np.allclose(list(numbers.values()), old, rtol=1e-4, atol=0.0, equal_nan=True):
            raise ValueError(
                f"`checkpoint` {self._path} holds runs of another method: on the undisturbed data this one gives other "
                "images. Give another file."
            )

    def add(self, name: str, values: Mapping[str, float], reason: str) -> None:
        """Keep one finished run."""
        self.rows[name] = np.array([values[column] for column in self._columns], np.float64), reason
        self._write()

    def complete(self, jobs: list["Job"], num_runs: int, kind: str, progress: bool | None, throw: bool) -> None:
        """Do what is missing of ``num_runs`` runs, keeping each.

        Raises:
            Exception: Whatever a run raises, unless ``throw`` is false and it is one of `FAILURES`, which is recorded.
        """
        with progress_bar(num_runs, kind, progress) as bar:
            bar.update(num_runs - len(jobs))
            for job in jobs:
                try:
                    numbers, reason = job.run()
                except FAILURES as error:
                    if throw:
                        error.add_note(f"This was {job.words}; throw=False records failures instead.")
                        raise
                    numbers = dict.fromkeys(self._columns, float("nan")) | job.known
                    reason = str(error).strip() or type(error).__name__
                self.add(job.name, numbers, reason)
                bar.update()

    def _write(self) -> None:
        if self._path is None:
            return
        values = [values for values, _ in self.rows.values()]
        held = {
            "study": self._kind,
            "columns": list(self._columns),
            "inputs": self._inputs,
            "reference": self.reference,
            "names": list(self.rows),
            "values": np.array(values, np.float64).reshape(-1, len(self._columns)),
            "reasons": [reason for _, reason in self.rows.values()],
        }
        write_object(self._path, held, {})


def describe(value: Any) -> str:
    """A text that differs where objects do, and is the same in every process.

    Of functions only the name, the code and plain enclosed values enter.
    """
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"key {describe(np.asarray(jax.random.key_data(jax.random.clone(value))))}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        host = np.ascontiguousarray(value)
        return f"{host.dtype}{list(host.shape)} {hashlib.sha256(host.tobytes()).hexdigest()[:32]}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {describe(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(describe(item) for item in value)})"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return f"partial({describe(value.func)}, {describe(value.args)}, {describe(value.keywords)})"
    if isinstance(value, types.MethodType):
        return f"{describe(value.__self__)}.{value.__name__}"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        plain = [
            item if isinstance(item, bool | int | float | str | np.ndarray | jax.Array) else None for item in cells
        ]
        code = hashlib.sha256(value.__code__.co_code).hexdigest()[:16]
        return f"{value.__module__}.{value.__qualname__} {code} {describe(plain)} {describe(value.__defaults__)}"
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{describe(type(value))}{describe(fields)}"
    if hasattr(value, "__dict__"):
        return f"{describe(type(value))}{describe(vars(value))}"
    return repr(value)


def unconverged(outcomes: list[Any]) -> str:
    """The sentences of the solves that did not succeed."""
    return " ".join(RESULTS[outcome] for outcome in outcomes if outcome != RESULTS.successful)
