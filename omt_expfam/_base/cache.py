"""Compiled programs that outlive the process: JAX's persistent compilation cache, set up for this library."""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

# JAX looks through the whole directory at each new program: a much larger one costs more than small programs do.
_MAX_BYTES = 2**26
# Every program counts: most are small, and hundreds of them make the first minute.
_THRESHOLDS = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}


def use_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs in a directory, where later processes find them instead of compiling again.

    This changes JAX's global settings, for programs of this library and all others; importing the library does not.
    The directory is bounded to 64 MiB, beyond which the programs that were used longest ago are dropped, and may
    serve several processes at once. Programs found there are run: nobody else may be able to write to it.

    Args:
        path: The directory. By default that of the environment variable ``JAX_COMPILATION_CACHE_DIR``, whose size is
            left to ``JAX_COMPILATION_CACHE_MAX_SIZE``, or else one in the user's cache directory.

    Returns:
        The directory, or None where it cannot be written to: then a warning says so, and programs are compiled.
    """
    settings = dict(_THRESHOLDS)
    environment = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if path is not None or not environment:
        settings["jax_compilation_cache_max_size"] = _MAX_BYTES
    default = environment or platformdirs.user_cache_path("omt-expfam") / "jax"
    directory = Path(default if path is None else path).expanduser().absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        if "jax_compilation_cache_max_size" in settings:
            _date_entries(directory)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        warnings.warn(f"Compiled programs are not kept: {directory}: {reason}.", stacklevel=2)
        return None
    for name, value in settings.items():
        # What the environment says, it says to JAX itself.
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # JAX looks at its settings once, at its first program.
    compilation_cache.reset_cache()
    return directory


def _date_entries(directory: Path) -> None:
    """Give the programs that were kept without a bound, and so without a time of last use, that of their making."""
    for program in directory.glob("*-cache"):
        used = program.with_name(f"{program.name.removesuffix('-cache')}-atime")
        # Another process may drop the program meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if not used.exists():
                used.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))
