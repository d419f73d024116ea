"""Names of files, looked at before there is anything to write; loads nothing."""

import os

EXTENSIONS = (".npy", ".npz", ".csv", ".tsv")


def check_extension(path: str) -> str:
    """The extension of a file of points, in lower case.

    Raises:
        ValueError: If it is not one that holds points.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in EXTENSIONS:
        raise ValueError(f"{path}: files of points end in {', '.join(EXTENSIONS)}; got {extension or 'no extension'}.")
    return extension


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError unless there is the folder that a file is to be written to."""
    folder = os.path.dirname(os.path.realpath(os.fspath(path)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{os.fspath(path)}: there is no folder {folder}.")
