"""One file: a ZIP archive with a manifest, arrays in NumPy's format and a digest, written atomically."""

import contextlib
import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from .paths import check_folder

FORMAT, FORMAT_VERSION = "omt-expfam", 1

_MANIFEST = "manifest.json"

_DIGEST_LENGTH = 64

_LOCAL_HEADER_LENGTH = 30

# What a malformed manifest or array raises, and a malformed archive besides.
TREE_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SyntaxError,
    EOFError,
    OverflowError,
    RecursionError,
)

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, *TREE_ERRORS)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place under ``path`` only when everything went well."""
    destination = os.path.realpath(os.fspath(path))
    if os.path.isdir(destination):
        raise IsADirectoryError(f"{os.fspath(path)}: is a directory; give the name of a file.")
    if os.path.exists(destination) and not os.path.isfile(destination):
        raise OSError(f"{os.fspath(path)}: not a regular file.")
    folder, name = os.path.split(destination)
    check_folder(path)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, destination)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def archive(manifest: str, arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a file: the manifest, the arrays, and the digest of both."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add_member(archive, _MANIFEST, manifest.encode())
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            _add_member(archive, name, content.getvalue())
        archive.comment = b"0" * _DIGEST_LENGTH
    content = buffer.getvalue()[:-_DIGEST_LENGTH]
    return content + _digest(content)


def _add_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # The date is fixed: equal objects give equal files. Light compression already drops triangles of zeros.
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=1)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def check_integrity(path: str, data: bytes) -> None:
    """Raise ValueError unless the bytes are one of our files, whole and unchanged."""
    first_name = data[_LOCAL_HEADER_LENGTH : _LOCAL_HEADER_LENGTH + len(_MANIFEST)]
    if not data:
        raise ValueError(f"{path}: the file is empty.")
    if not data.startswith(b"PK\x03\x04") or first_name != _MANIFEST.encode():
        raise ValueError(f"{path}: not an omt-expfam file, or damaged at its beginning.")
    if data[-_DIGEST_LENGTH:] != _digest(data[:-_DIGEST_LENGTH]):
        raise ValueError(f"{path}: the file is truncated or corrupted: its checksum does not match.")


def open_archive(path: str, data: bytes) -> tuple[Any, dict[str, bytes]]:
    """The tree of the object, and the bytes of every array."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(members.pop(_MANIFEST))
        version, tree = manifest["format_version"], manifest["object"]
        foreign = manifest["format"] != FORMAT or type(version) is not int
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: the manifest of the file cannot be read.") from error
    if foreign:
        raise ValueError(f"{path}: not an omt-expfam file.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: written by a newer omt-expfam, {manifest.get('library_version')} (format {version}); "
            f"this one reads up to format {FORMAT_VERSION}. Upgrade omt-expfam."
        )
    return tree, members
