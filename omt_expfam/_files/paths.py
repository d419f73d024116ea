"""Names of files, looked at before there is anything to write; loads nothing."""

import contextlib
import os
import shutil
from collections.abc import Iterator

EXTENSIONS = (".npy", ".npz", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".h5ad")


# Files and folders that are to be removed, should the process be stopped.
_UNFINISHED: set[str] = set()


@contextlib.contextmanager
def unfinished(path: str) -> Iterator[None]:
    """Keep in mind a temporary file or folder while it exists."""
    _UNFINISHED.add(path)
    try:
        yield
    finally:
        _UNFINISHED.discard(path)


def remove_unfinished() -> None:
    """Remove what is temporary, before the process ends in the middle of its work."""
    for path in list(_UNFINISHED):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(path)


def check_extension(path: str) -> str:
    """The extension of a file of points, in lower case.

    Raises:
        ValueError: If it is not one that holds points.
    """
    name = os.path.basename(path).lower()
    extension = next((end for end in sorted(EXTENSIONS, key=len, reverse=True) if name.endswith(end)), None)
    if extension is None:
        extension = os.path.splitext(name)[1]
        raise ValueError(f"{path}: files of points end in {', '.join(EXTENSIONS)}; got {extension or 'no extension'}.")
    return extension


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError unless there is the folder that a file is to be written to."""
    folder = os.path.dirname(os.path.realpath(os.fspath(path)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{os.fspath(path)}: there is no folder {folder}.")
