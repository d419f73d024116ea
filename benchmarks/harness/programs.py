"""Counting the programs that JAX compiles, or finds compiled in its cache: what a first call pays for."""

import collections
import contextlib
import logging
import re
from collections.abc import Iterator

import jax.monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"
_NAME = re.compile(r"Finished XLA compilation of jit\((.*)\) in ([0-9.e+-]+) sec")


class Programs:
    """What was compiled (or loaded from a cache) inside `counted`.

    Attributes:
        count: Number of programs.
        seconds: Wall seconds of compiling or loading them.
        names: How often a function of each name was compiled.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.names: collections.Counter[str] = collections.Counter()

    def __str__(self) -> str:
        names = ", ".join(name if num == 1 else f"{name} x{num}" for name, num in self.names.most_common())
        return f"{self.count} programs in {self.seconds:.2f} s: {names}"


class _Names(logging.Handler):
    def __init__(self, programs: Programs):
        super().__init__()
        self.programs = programs

    def emit(self, record: logging.LogRecord) -> None:
        found = _NAME.search(record.getMessage())
        if found:
            self.programs.names[found.group(1)] += 1


_open: list[Programs] = []


def _listen(event: str, duration: float, **_: object) -> None:
    if event == _EVENT:
        for programs in _open:
            programs.count += 1
            programs.seconds += duration


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def counted() -> Iterator[Programs]:
    """Count the programs that are compiled, or loaded from a cache, in the block."""
    programs = Programs()
    logger = logging.getLogger("jax._src.dispatch")
    handler, before = _Names(programs), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    _open.append(programs)
    try:
        yield programs
    finally:
        _open.remove(programs)
        logger.removeHandler(handler)
        logger.level, logger.propagate = before[0], before[1]
