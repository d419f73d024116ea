"""Results of long computations, kept in the directory that OMT_CACHE names so that a later run goes on from there."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kept(name: str, settings: Any, compute: Callable[[], Any], default: Path | None = None) -> Any:
    """What was computed before with these settings, told apart by their ``repr``, and else what is computed now.

    Where OMT_CACHE names no directory, the default one keeps it, if there is one.
    """
    folder = os.environ.get("OMT_CACHE") or default
    if not folder:
        return compute()
    path = Path(folder) / f"{name}_{hashlib.sha256(repr(settings).encode()).hexdigest()[:12]}.pickle"
    if path.is_file():
        return pickle.loads(path.read_bytes())
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_bytes(pickle.dumps(result))
    draft.replace(path)
    return result
