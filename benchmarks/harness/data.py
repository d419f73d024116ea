"""Real data sets of the benchmarks, read from a directory; none of them is part of this repository.

Every loader takes the directory that `data_directory` finds, and raises `MissingData` where its files are not there.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEFAULT_DIRECTORY = Path(__file__).parents[3] / "shared" / "data"


class MissingData(FileNotFoundError):
    """A data set is not where it was looked for."""


def data_directory(given: Path | None = None) -> Path:
    """The directory of the data sets: as given, else the environment variable OMT_DATA, else beside the checkout."""
    return Path(given or os.environ.get("OMT_DATA") or DEFAULT_DIRECTORY)


def locate(directory: Path, name: str) -> Path:
    """The path of a file inside the directory of data sets."""
    path = Path(directory) / name
    if not path.is_file():
        raise MissingData(f"the data set {name} is not there ({path}): pass --data or set OMT_DATA.")
    return path


def read_arrays(directory: Path, name: str) -> Mapping[str, np.ndarray]:
    """The arrays of a file ``.npz``."""
    with np.load(locate(directory, name)) as arrays:
        return {key: arrays[key] for key in arrays.files}


class Cells(NamedTuple):
    """Cells of two conditions.

    Attributes:
        points: Features, shape ``[n, d]``.
        stimulated: Whether a cell is of the second condition, shape ``[n]``.
        group: Cell type or donor, shape ``[n]``.
        features: Names of the features.
    """

    points: np.ndarray
    stimulated: np.ndarray
    group: np.ndarray
    features: list[str]


def kang(directory: Path, dim: int = 16) -> Cells:
    """Blood cells without and with interferon beta (Kang et al. 2018), by cell type: leading principal components."""
    arrays = read_arrays(directory, "kang_ifnb/kang_ifnb.npz")
    mine = arrays["source"] == "scgen"
    features = [f"PC{i + 1}" for i in range(dim)]
    points = arrays["pca"][mine, :dim].astype(np.float32)
    return Cells(points, arrays["stim"][mine] == 1, arrays["cell_type"][mine].astype(str), features)


def kang_genes(directory: Path, num_genes: int = 2000) -> Cells:
    """The same cells in gene space: log(1 + counts per 10,000) of the most variable genes."""
    import scipy.sparse

    arrays = read_arrays(directory, "kang_ifnb/kang_scgen_valid.npz")
    parts = arrays["counts_data"], arrays["counts_indices"].astype(np.int32), arrays["counts_indptr"]
    counts = scipy.sparse.csr_matrix(parts, shape=tuple(arrays["counts_shape"])).toarray().astype(np.float32)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    most = np.sort(np.argsort(-values.var(axis=0), kind="stable")[:num_genes])
    names = [str(name) for name in arrays["genes"][most]]
    return Cells(values[:, most], arrays["stim"] == 1, arrays["cell_type"].astype(str), names)


def bodenmiller(directory: Path) -> Cells:
    """Blood cells without and with B cell receptor stimulation (Bodenmiller et al. 2012), by donor: 24 markers."""
    arrays = read_arrays(directory, "bodenmiller_bcrxl/bcrxl.npz")
    markers = [str(name) for name in arrays["markers"]]
    return Cells(arrays["x"].astype(np.float32), arrays["stim"] == 1, arrays["patient"], markers)


class Section(NamedTuple):
    """One section of tissue.

    Attributes:
        places: Positions in micrometers, shape ``[n, 2]``.
        expression: log(1 + counts), shape ``[n, genes]``.
        kinds: Class of each cell, shape ``[n]``.
    """

    places: np.ndarray
    expression: np.ndarray
    kinds: np.ndarray


def merfish(directory: Path) -> tuple[Section, Section, list[str]]:
    """Two adjacent sections of a mouse hypothalamus (Moffitt et al. 2018), and the names of the genes."""
    arrays = read_arrays(directory, "merfish_hypothalamus/merfish_poa.npz")
    first = arrays["bregma"] < 0.235
    expression = np.log1p(arrays["expr"].astype(np.float32))
    places, kinds = arrays["xy"].astype(np.float32), arrays["cell_class"].astype(str)
    sections = [Section(places[m], expression[m], kinds[m]) for m in (first, ~first)]
    return sections[0], sections[1], [str(gene) for gene in arrays["genes"]]


def emt(directory: Path) -> list[np.ndarray]:
    """A549 cells under TGF beta (Cook and Vanderhyden 2020) at 0 h, 8 h, 1 d and 3-7 d: ten latent coordinates."""
    arrays = read_arrays(directory, "emt_a549/emt.npz")
    return [arrays["x"][arrays["time"] == time].astype(np.float32) for time in range(4)]


class Reprogramming(NamedTuple):
    """Cells at day 0 and in the two replicates of day 2, with their growth scores.

    Attributes:
        day0: Shape ``[4060, 20]``.
        day2: Two replicates.
        growth: Growth score of every cell at day 0, then of those of the replicates.
    """

    day0: np.ndarray
    day2: tuple[np.ndarray, np.ndarray]
    growth: tuple[np.ndarray, np.ndarray, np.ndarray]


def reprogramming(directory: Path) -> Reprogramming:
    """Reprogramming fibroblasts (Schiebinger et al. 2019): twenty diffusion components."""
    arrays = read_arrays(directory, "wot_reprogramming/wot_d0_d2.npz")
    masks = [arrays["day"] == 0, *((arrays["day"] == 2) & (arrays["replicate"] == r) for r in ("c1", "c2"))]
    points = [arrays["x"][m].astype(np.float32) for m in masks]
    growth = [arrays["growth"][m].astype(np.float32) for m in masks]
    return Reprogramming(points[0], (points[1], points[2]), (growth[0], growth[1], growth[2]))


def mnist(directory: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Handwritten digits: images in [0, 1] of shape ``[n, 28, 28]`` and labels, to train and to test."""
    parts: list[Any] = []
    for name in ("train", "test"):
        arrays = read_arrays(directory, f"mnist/mnist_{name}.npz")
        parts.append((arrays["x"].astype(np.float32) / 255, arrays["y"].astype(int)))
    return parts[0], parts[1]


def cifar(directory: Path, num: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Airplanes and birds (CIFAR-10): as many of both as asked, colors in [0, 1], each ``[n, 32, 32, 3]``."""
    from PIL import Image

    arrays = read_arrays(directory, "cifar10_airplane_bird/cifar10_train_airplane_bird.npz")
    ends, data = arrays["offset"], arrays["jpeg"].tobytes()
    found: list[Any] = []
    for name in ("airplane", "bird"):
        rows = np.flatnonzero(arrays["classes"][arrays["y"]] == name)[:num]
        files = [io.BytesIO(data[ends[i] : ends[i + 1]]) for i in rows]
        found.append(np.stack([np.asarray(Image.open(file)) for file in files]).astype(np.float32) / 255)
    return found[0], found[1]


def picture(directory: Path, name: str) -> np.ndarray:
    """A photograph or painting: colors in [0, 1], shape ``[height, width, 3]``."""
    from PIL import Image

    with Image.open(locate(directory, f"color_transfer/{name}.jpg")) as image:
        return np.asarray(image.convert("RGB"), np.float32) / 255
