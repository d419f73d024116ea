"""One file: a ZIP archive with a manifest, arrays in NumPy's format and a digest, written atomically."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from .paths import check_folder, unfinished

FORMAT, FORMAT_VERSION = "omt-expfam", 1

_MANIFEST = "manifest.json"

_DIGEST_LENGTH = 64

_LOCAL_HEADER_LENGTH = 30

# How many bytes an archive may unpack to, whatever its size, and for each of its own.
_ROOM, _RATIO = 2**26, 200

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

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, *TREE_ERRORS)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place under ``path`` only when everything went well.

    Raises:
        FileExistsError: Unless ``replace``, if there is a file of that name by then.
    """
    destination = os.path.realpath(os.fspath(path))
    if os.path.isdir(destination):
        raise IsADirectoryError(f"{os.fspath(path)}: is a directory; give the name of a file.")
    if os.path.exists(destination) and not os.path.isfile(destination):
        raise OSError(f"{os.fspath(path)}: not a regular file.")
    folder, name = os.path.split(destination)
    check_folder(path)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with unfinished(temporary):
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, destination)
            else:
                _move_new(temporary, destination)
    except FileExistsError:
        raise
    except OSError as error:
        # A full disk does not say which file it was.
        if error.errno is None or error.filename not in (None, temporary):
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _move_new(temporary: str, destination: str) -> None:
    """Move a file to a name that must be free, also if another process wants it in the same moment."""
    try:
        os.link(temporary, destination)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems have no links.
        if os.path.lexists(destination):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination) from None
        os.replace(temporary, destination)


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


def open_archive(path: str, data: bytes) -> tuple[Any, zipfile.ZipFile]:
    """The manifest, and the archive of the arrays, whose sizes have been looked at."""
    try:
        members = zipfile.ZipFile(io.BytesIO(data))
        declared = sum(info.file_size for info in members.infolist())
        if declared > _ROOM + _RATIO * len(data):
            raise _Refused(
                f"{path}: {len(data)} bytes would unpack to {declared}: damaged, or made to fill the memory."
            )
        manifest = json.loads(members.read(_MANIFEST))
        _check_version(path, manifest)
        if "object" not in manifest:
            raise KeyError("object")
        return manifest, members
    except _Refused as error:
        raise ValueError(str(error)) from None
    except ZIP_ERRORS as error:
        raise ValueError(f"{path}: the manifest of the file cannot be read.") from error


def _check_version(path: str, manifest: Any) -> None:
    """Looked at before anything else, which other versions may write otherwise."""
    version = manifest["format_version"]
    if manifest["format"] != FORMAT or type(version) is not int:
        raise _Refused(f"{path}: not an omt-expfam file.")
    if version < 1:
        raise _Refused(f"{path}: not an omt-expfam file: there is no format {version}.")
    if version > FORMAT_VERSION:
        raise _Refused(
            f"{path}: of a newer version: written by a newer omt-expfam, {manifest.get('library_version')} (format "
            f"{version}); this one reads up to format {FORMAT_VERSION}. Upgrade omt-expfam."
        )


class _Refused(Exception):
    """Why an archive is not read."""


def read_array(file: Any, num_bytes: int) -> np.ndarray:
    """Read an array in NumPy's format from a seekable file of so many bytes.

    Raises:
        ValueError: Also where the header asks for more or less memory than there are numbers; none is taken then.
    """
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"arrays of format {version} are not read.")
    shape, _, dtype = headers[version](file)
    needed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read (no allow_pickle).")
    if min(shape, default=0) < 0 or needed != num_bytes - file.tell():
        raise ValueError(
            f"its header says shape {shape} of {dtype}, {needed} bytes; there are {num_bytes - file.tell()}."
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
