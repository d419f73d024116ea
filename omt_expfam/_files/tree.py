"""The tree of an object, as a manifest and arrays, and back."""

import dataclasses
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import __version__
from .._base.arrays import is_traced
from .._base.results import RESULTS
from .archive import archive, atomic_file, check_integrity, FORMAT, FORMAT_VERSION, open_archive, read_array, ZIP_ERRORS
from .shapes import misfit

_ENUMERATIONS = {"RESULTS": RESULTS}


def write_object(
    path: str | os.PathLike[str],
    object: Any,
    classes: Mapping[str, type],
    *,
    columns: Any = None,
    replace: bool = True,
) -> None:
    """Save an object to one file; a class of the library is one that ``classes`` holds under its name.

    Names of columns of the data may be kept beside it, for `read_columns`.
    """
    data = encode_object(object, classes, columns)
    with atomic_file(path, replace=replace) as file:
        file.write(data)


def encode_object(object: Any, classes: Mapping[str, type], columns: Any = None) -> bytes:
    """What `write_object` writes."""
    writer = _Writer(classes)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "object": writer.encode(object, "object"),
        **({} if columns is None else {"columns": columns}),
    }
    return archive(json.dumps(manifest, allow_nan=False), writer.arrays)


def read_columns(path: str) -> Any:
    """The names of columns that are kept beside an object; ``None`` where there are none."""
    with open(path, "rb") as file:
        data = file.read()
    check_integrity(path, data)
    return open_archive(path, data)[0].get("columns")


def read_object(
    path: str | os.PathLike[str],
    classes: Mapping[str, type],
    families: Mapping[str, type] | None = None,
    dtype: str | None = None,
) -> Any:
    """Load an object that `write_object` wrote, of these classes of the library and of the user's own families."""
    with open(path, "rb") as file:
        data = file.read()
    return decode_object(os.fspath(path), data, classes, families, dtype)


def decode_object(
    path: str,
    data: bytes,
    classes: Mapping[str, type],
    families: Mapping[str, type] | None = None,
    dtype: str | None = None,
) -> Any:
    """The object in what `encode_object` gave; ``path`` says in errors where it was found."""
    check_integrity(path, data)
    manifest, members = open_archive(path, data)
    tree = manifest["object"]
    reader = _Reader(members, classes, families, dtype)
    try:
        loaded = reader.decode(tree)
    except _Refused as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    except ZIP_ERRORS as error:
        raise ValueError(f"{path}: the manifest of the file is malformed.") from error
    if reader.rounded:
        warnings.warn(
            f"{path}: {reader.rounded}, as JAX has no others here. Enable them before loading with "
            'jax.config.update("jax_enable_x64", True), or say dtype="float32".',
            UserWarning,
            stacklevel=3,
        )
    return loaded


class _Writer:
    """Turns an object into JSON and collects its arrays, each once however often it occurs."""

    def __init__(self, classes: Mapping[str, type]) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._classes = classes
        # Ids are unique only among living objects.
        self._alive: list[Any] = []

    def encode(self, value: Any, where: str) -> Any:
        """The JSON tree of a value; ``where`` says in error messages which part of the object it is."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return {"kind": "float", "value": value.hex()}
        if type(value) is list:
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if type(value) is tuple:
            return {"kind": "tuple", "items": self.encode(list(value), where)}
        if type(value) is dict:
            keys = [self.encode(key, f"a key of {where}") for key in value]
            values = [self.encode(item, f"{where}[{key!r}]") for key, item in value.items()]
            return {"kind": "dict", "keys": keys, "values": values}
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return self._array(value, where)
        for name, enumeration in _ENUMERATIONS.items():
            if isinstance(value, enumeration):
                return self._enumeration_item(name, value, where)
        if (reason := getattr(value, "_why_not_saved", None)) is not None:
            raise TypeError(f"`{where}` cannot be saved: {reason}")
        if isinstance(value, eqx.Module) or type(value) in self._classes.values():
            return self._object(value, where)
        raise TypeError(f"`{where}` cannot be saved: files do not hold {type(value).__name__} objects.")

    def _array(self, value: Any, where: str) -> dict[str, Any]:
        if is_traced(value):
            raise TypeError(f"`{where}` is traced: call save outside jit, vmap and grad.")
        if not isinstance(value.dtype, np.dtype) or value.dtype.kind not in "biufc":
            raise TypeError(f"`{where}` cannot be saved: files do not hold arrays of {value.dtype}.")
        if id(value) not in self._names:
            self._names[id(value)] = name = f"arrays/{len(self.arrays)}.npy"
            self._alive.append(value)
            self.arrays[name] = np.asarray(value)
        forms = {"jax": jax.Array, "numpy": np.ndarray, "scalar": np.generic}
        form = next(name for name, cls in forms.items() if isinstance(value, cls))
        return {"kind": "array", "member": self._names[id(value)], "form": form}

    def _enumeration_item(self, name: str, value: Any, where: str) -> dict[str, Any]:
        """Members by name: their numbers may change between versions."""
        if value.is_traced():
            raise TypeError(f"`{where}` is traced: call save outside jit, vmap and grad.")
        names = {int(item._value): key for key, item in _ENUMERATIONS[name]._name_to_item.items()}
        indices = np.asarray(value._value)
        members = [names[int(index)] for index in indices.reshape(-1)]
        return {"kind": "enumeration", "class": name, "shape": list(indices.shape), "members": members}

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        name, names = type(value).__name__, [field.name for field in dataclasses.fields(value)]
        fields = {field: self.encode(getattr(value, field), f"{where}.{field}") for field in names}
        ours = self._classes.get(name) is type(value)
        return {"kind": "object", "class": name, "ours": ours, "fields": fields}


class _Reader:
    """Rebuilds an object from JSON and arrays; runs no constructors, which would renormalize."""

    def __init__(
        self,
        members: zipfile.ZipFile,
        classes: Mapping[str, type],
        families: Mapping[str, type] | None,
        dtype: str | None,
    ) -> None:
        self._members = members
        self._ours, self._theirs = classes, dict(families or {})
        self._dtype = dtype
        self.rounded = ""
        self._arrays: dict[tuple[str, str], Any] = {}
        self._decoders = {
            "float": self._decode_float,
            "tuple": self._decode_tuple,
            "dict": self._decode_dict,
            "array": self._decode_array,
            "enumeration": self._decode_enumeration,
            "object": self._decode_object,
        }
        for name, cls in self._theirs.items():
            if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
                raise TypeError(f"`families` must hold classes of components; got {cls!r} for {name!r}.")

    def decode(self, tree: Any) -> Any:
        """The object that a JSON tree describes."""
        if tree is None or isinstance(tree, bool | int | str):
            return tree
        if isinstance(tree, list):
            return [self.decode(item) for item in tree]
        return self._decoders[tree["kind"]](tree)

    def _decode_float(self, tree: dict[str, Any]) -> float:
        return float.fromhex(tree["value"])

    def _decode_tuple(self, tree: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(self.decode(tree["items"]))

    def _decode_dict(self, tree: dict[str, Any]) -> dict[Any, Any]:
        return dict(zip(self.decode(tree["keys"]), self.decode(tree["values"]), strict=True))

    def _decode_enumeration(self, tree: dict[str, Any]) -> Any:
        enumeration = _ENUMERATIONS.get(tree["class"])
        items = enumeration._name_to_item if enumeration is not None else {}
        unknown = [name for name in tree["members"] if name not in items]
        if enumeration is None or unknown:
            raise _Refused(f"unknown outcome {', '.join([tree['class'], *unknown])}. Upgrade omt-expfam.")
        indices = np.asarray([items[name]._value for name in tree["members"]], np.int32)
        result = object.__new__(type(enumeration.successful))
        object.__setattr__(result, "_value", jnp.asarray(indices.reshape(tree["shape"])))
        object.__setattr__(result, "_enumeration", enumeration)
        return result

    def _decode_object(self, tree: dict[str, Any]) -> Any:
        name, fields = tree["class"], tree["fields"]
        cls = (self._ours if tree["ours"] else self._theirs).get(name)
        if cls is None:
            remedy = "Upgrade omt-expfam." if tree["ours"] else f"Pass it: load(path, families={{{name!r}: {name}}})."
            raise _Refused(f"holds an object of the unknown class {name}. {remedy}")
        every = {field.name: field for field in dataclasses.fields(cls)}
        optional = {name for name, field in every.items() if field.default is not dataclasses.MISSING}
        expected = set(every)
        fields = {field: fields[field] for field in fields if field not in getattr(cls, "former_fields", ())}
        if not expected - optional <= set(fields) <= expected:
            differing = ", ".join(sorted(expected.symmetric_difference(fields)))
            raise _Refused(f"its {name} was saved by a version of the class with other fields ({differing}).")
        result = object.__new__(cls)
        # A field that an older version of the class did not have keeps its default.
        for field in expected - set(fields):
            object.__setattr__(result, field, every[field].default)
        for field, value in fields.items():
            object.__setattr__(result, field, self.decode(value))
        if (why := misfit(result)) is not None:
            raise _Refused(f"the arrays of its {name} do not fit each other: {why}.")
        return result

    def _decode_array(self, tree: dict[str, Any]) -> Any:
        key = tree["member"], tree["form"]
        if key not in self._arrays:
            self._arrays[key] = self._read_array(*key)
        return self._arrays[key]

    def _read_array(self, member: str, form: str) -> Any:
        try:
            info = self._members.getinfo(member)
        except KeyError:
            raise _Refused(f"the array {member} is missing from the file.") from None
        with self._members.open(info) as file:
            try:
                host = read_array(file, info.file_size)
            except ValueError as error:
                raise _Refused(f"the array {member} is malformed: {error}") from None
        host = host.astype(host.dtype.newbyteorder("="), copy=False)
        if form == "jax":
            return self._as_jax(host)
        return host if form == "numpy" else host[()]

    def _as_jax(self, host: np.ndarray) -> jax.Array:
        """A JAX array of the wanted type, if it can hold the values."""
        wanted = np.dtype(self._dtype) if self._dtype and host.dtype.kind == "f" else host.dtype
        available = np.dtype(jax.dtypes.canonicalize_dtype(wanted))
        if available != wanted and host.dtype.kind in "fc":
            if self._dtype is not None:
                raise _Refused(
                    f'cannot be loaded with dtype="{wanted}" while JAX has no such numbers. Enable them first with '
                    'jax.config.update("jax_enable_x64", True).'
                )
            self.rounded = f"{wanted} numbers were rounded to {available}"
        with np.errstate(over="ignore"):
            converted = host.astype(available)
        lost = converted != host if host.dtype.kind in "iu" else np.isfinite(host) & ~np.isfinite(converted)
        if np.any(lost):
            raise _Refused(f"holds {host.dtype} numbers too large for {available}.")
        return jnp.asarray(converted)


class _Refused(Exception):
    """Why a file cannot be loaded."""
