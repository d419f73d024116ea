"""Tables of points as pandas, R and NumPy write them."""

import numpy as np
import pandas as pd
import pytest

from omt_expfam._files.points import read_points

POINTS = np.random.default_rng(0).standard_normal((5, 2))


def _named():
    return pd.DataFrame(POINTS, columns=["a", "b"])


def _as_r_writes(path):
    lines = [f'"cell {i}",{a!r},{b!r}\n' for i, (a, b) in enumerate(POINTS.tolist())]
    path.write_text('"a","b"\n' + "".join(lines))


WRITERS = {
    "numbered rows": lambda path: _named().to_csv(path),
    "named rows": lambda path: _named().set_axis(list("pqrst")).to_csv(path),
    "numbered rows and columns": lambda path: pd.DataFrame(POINTS).to_csv(path),
    "no rows' labels": lambda path: _named().to_csv(path, index=False),
    "neither": lambda path: pd.DataFrame(POINTS).to_csv(path, index=False, header=False),
    "semicolons": lambda path: _named().to_csv(path, index=False, sep=";"),
    "tabs": lambda path: _named().to_csv(path, sep="\t"),
    "quotes": lambda path: _named().to_csv(path, index=False, quoting=1),
    "R": _as_r_writes,
    "NumPy": lambda path: np.savetxt(path, POINTS, delimiter=","),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_are_read_as_they_were_meant(writer, ending, tmp_path):
    path = tmp_path / f"points.{ending}"
    WRITERS[writer](path)
    np.testing.assert_allclose(read_points(str(path))[0], POINTS, rtol=1e-12)


def test_numbers_of_columns_are_not_taken_for_a_point(tmp_path):
    path = tmp_path / "points.csv"
    pd.DataFrame(POINTS).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"points\.csv: the first line is 0,1: a point, or numbers of columns"):
        read_points(str(path))
    np.testing.assert_allclose(read_points(str(path), header=True)[0], POINTS, rtol=1e-12)
    assert len(read_points(str(path), header=False)[0]) == len(POINTS) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2\n", "the header has 3 names; the first row has 2 cells"),
        (",a\n0,1\n1,2,3\n", "line 3 has 3 columns; the rows above have 2"),
        (",a\n0,x\n", "line 2, column 2: 'x' is not a number"),
    ],
)
def test_tables_that_do_not_fit_are_refused(text, message, tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_points(str(path))
