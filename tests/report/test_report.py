"""The page: whole, readable by machines and people, and without a word from outside."""

import collections
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._report.citation import BIBTEX, CITATION, SOFTWARE
from omt_expfam._report.words import findings
from omt_expfam.families import Gaussian

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script>"
NAMES = (EVIL, "</script><b>bold", "T & <i>B</i> cells", "d $x$")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Elements without an end.
VOID = {"meta", "br"}


def side(num, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(num, 2, 2))
    centers, spread = 4 * rng.normal(size=(num, 2)), root @ root.transpose(0, 2, 1) + np.eye(2)
    return omt.Mixture(rng.dirichlet(np.full(num, 3.0)), Gaussian(centers, spread))


class Page(html.parser.HTMLParser):
    """What is in a page: elements with their attributes, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], collections.defaultdict(list), []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts[tag].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A page on groups with the worst of names."""
    x, y = (np.asarray(side(num, seed).sample(jax.random.key(seed), 120)) for num, seed in ((3, 1), (4, 2)))
    fits, labels = [], []
    for points, (num, seed) in zip((x, y), ((3, 1), (4, 2)), strict=True):
        labels.append(np.array(NAMES)[np.asarray(side(num, seed).responsibilities(points)).argmax(1)])
        fits.append(omt.mixture_from_labels(points, labels[-1], Gaussian))
    plan = omt.transport(*fits)
    # The labels that are shown are coarser than the components.
    labels = [np.where(own == NAMES[1], NAMES[0], own) for own in labels]
    path = tmp_path_factory.mktemp("report") / "page.html"
    omt.report(
        path,
        plan,
        x,
        y,
        fits=(fits[0], fits[1]),
        labels=(labels[0], labels[1]),
        embedding=(x[:, ::-1], y[:, ::-1]),
        names=(EVIL, "after"),
        notes=[f"Chosen by {EVIL}."],
        call=f"omt.transport({EVIL})",
    )
    return plan, x, y, labels, path


@pytest.fixture(scope="module")
def page(case):
    return Page(case[-1].read_text())


def figures(page):
    """The figures by name."""
    found = {}
    for attributes, text in zip(page.all("script"), page.texts["script"], strict=True):
        if attributes.get("type") == "application/json":
            found[attributes["id"].removeprefix("chart-").removesuffix("-data")] = json.loads(text)
    return found


def test_a_page_needs_nothing_from_outside(page):
    for _, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"@import|url\(", page.texts["style"][0])
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_names_are_text(page, case):
    """No element comes of a name: neither of a component's, nor of a side's, nor of a note."""
    drawn = figures(page)
    assert len(page.all("script")) == len(drawn) + 2
    assert not page.all("b")
    assert not page.all("i")
    assert "<script>alert" not in case[-1].read_text().replace(page.texts["script"][-2], "")
    assert EVIL in page.texts["h1"][0]
    assert any(EVIL in cell for cell in page.texts["th"])
    # Plotly reads HTML in texts, too.
    shown = json.dumps([drawn["flows"]["data"][0]["node"]["label"], drawn["points"]["data"], drawn["map"]["data"]])
    assert "<script" not in shown
    assert "<i>" not in shown
    assert "&lt;script&gt;" in shown


def test_charts_hold_the_numbers_of_the_plan(page, case):
    plan, x, y, labels, _ = case
    drawn = figures(page)
    assert set(drawn) == {"flows", "points", "map", "labels-flows"}
    weights = np.asarray(plan.weights, np.float64)
    links = drawn["flows"]["data"][0]["link"]
    table = np.zeros_like(weights)
    table[links["source"], np.array(links["target"]) - 3] = links["value"]
    np.testing.assert_allclose(table, np.where(weights > 1e-3, weights, 0), atol=1e-6)
    clouds = drawn["points"]["data"]
    for axis, points in (("x", x), ("x2", y)):
        own = [trace for trace in clouds if trace["xaxis"] == axis]
        assert sum(len(trace["x"]) for trace in own) == len(points)
        places = np.array([[a, b] for t in own for a, b in zip(t["x"], t["y"], strict=True)])
        # The embedding exchanges the axes.
        np.testing.assert_allclose(np.sort(places[:, 0]), np.sort(points[:, 1]), rtol=1e-5)
    layout = drawn["points"]["layout"]
    assert layout["xaxis"]["range"] == layout["xaxis2"]["range"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"]
    names = sorted(set(np.concatenate(labels)))
    flows = plan.group_flows(
        *(omt.group_shares(m, p, own) for m, p, own in zip((plan.source, plan.target), (x, y), labels, strict=True))
    )
    links = drawn["labels-flows"]["data"][0]["link"]
    heavy = flows.couplings[0][flows.couplings[0] > 1e-3]
    np.testing.assert_allclose(sorted(links["value"]), sorted(heavy), atol=1e-6)
    assert set(names) == set(flows.names)


def test_a_page_can_be_read_without_eyes(page):
    """Language, headings in order, a name for each figure and table, headers for rows and columns, a way past menus."""
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(identifiers)) == len(identifiers)
    for link in page.all("a"):
        assert link["href"][1:] in identifiers
    charts = [a for a in page.all("div") if a.get("class") == "chart"]
    assert len(charts) == len(page.all("figure")) == len(page.all("figcaption"))
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 20 for chart in charts)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert page.all("noscript")
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}


def test_a_page_says_what_is_asked_of_it(page, case):
    plan, *_ = case
    text = " ".join(" ".join(page.texts["body"]).split())
    for part in (
        f"{float(plan.cost):.4g}",
        f"{float(plan.independence):.0%}",
        "epsilon_weights",
        "Both follow the data",
        "arXiv:2606.02515",
        "omt.transport(",
        "Labels carried over",
        "mostly (purity)",
        "Convergence",
        "Far pairs",
        "Uniqueness",
        jax.__version__,
    ):
        assert part in text, part


def test_what_is_cited_is_what_the_citation_file_says():
    stated = (ROOT / "CITATION.cff").read_text()
    field = lambda name: re.findall(rf'\b{name}: "?([^"\n]*)', stated)
    for title in field("title"):
        assert title in CITATION + SOFTWARE
        assert title in BIBTEX
    for name in field("family-names"):
        assert name in CITATION
    (identifier,) = re.findall("arXiv:[0-9.]+", stated)
    assert identifier in CITATION
    assert identifier in BIBTEX
    assert field("license")[0] in BIBTEX
    assert field("year")[0] in CITATION


def test_words_follow_the_numbers(case):
    """What is fine and what is not: each finding of a plan that should have it."""
    plan, x, y, *_ = case
    kinds = lambda p: {subject: kind for kind, subject, _ in findings(p)}
    assert kinds(plan)["Convergence"] == kinds(plan)["Marginals"] == kinds(plan)["Uniqueness"] == "good"
    loose = omt.transport(plan.source, plan.target, epsilon_weights=1e5)
    assert kinds(loose)["Independence"] == "look"
    exact = omt.transport(plan.source, plan.target, epsilon_weights=0)
    assert kinds(exact)["Uniqueness"] == "note"
    assert "Choice of epsilon" not in kinds(exact)
    relaxed = omt.transport(plan.source, plan.target, source_relaxation=5.0, target_relaxation=5.0)
    assert kinds(relaxed)["Masses"] == "note"


@pytest.mark.parametrize("dim", [1, 2])
def test_a_plan_alone_is_enough(tmp_path, dim):
    """Without points, fits and labels: points are drawn, and the page says so; on the line there is one picture."""
    centers = np.arange(3.0 * dim).reshape(3, dim)
    source = omt.Mixture(np.full(3, 1 / 3), Gaussian(centers, np.tile(np.eye(dim), (3, 1, 1))))
    plan = omt.transport(source, source, epsilon_components=0.1, epsilon_weights=1.0)
    omt.report(tmp_path / "page.html", plan)
    page = Page((tmp_path / "page.html").read_text())
    assert "drawn from the fitted mixtures" in page.texts["body"][0]
    assert set(figures(page)) == {"flows", "map"} | ({"points"} if dim == 2 else set())


def test_bad_arguments_are_named(case, tmp_path, monkeypatch):
    plan, x, y, labels, path = case
    bad = {
        "`x` must have shape": {"x": np.zeros((5, 3))},
        "`labels` must be a pair": {"x": x, "labels": labels[0]},
        "`labels of x` must have one entry per point, 120": {"x": x, "labels": (labels[0][:5], None)},
        "`x` must be given with its `labels`": {"labels": (labels[0], None)},
        "`labels` of `x` must be given beside": {"x": x, "y": y, "labels": (None, labels[1])},
        "`y` must be given with an `embedding`": {"x": x, "embedding": (x, y)},
        "`embedding of y` must hold two finite numbers for each of 120": {"x": x, "y": y, "embedding": (x, y[:7])},
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            omt.report(tmp_path / "new.html", plan, **arguments)
    with pytest.raises(FileExistsError):
        omt.report(path, plan, x, y, replace=False)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'omt-expfam\[report\]'"):
        omt.report(tmp_path / "new.html", plan)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_charts(case, tmp_path):
    """Every chart is drawn, nothing is asked of a network, no script complains, and no name has become one."""
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=8000",
        "--enable-logging=stderr",
        "--dump-dom",
        case[-1].as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # What a browser makes of the page: each chart has its drawing.
    drawn = re.findall(
        r'class="chart[^>]*id="chart-([\w-]+)".*?(<svg class="main-svg".*?</svg>)', done.stdout, re.DOTALL
    )
    assert {name for name, _ in drawn} == {"flows", "points", "map", "labels-flows"}
    assert len(re.findall(r'class="sankey-link"', done.stdout)) >= 6
    assert len(re.findall(r'<path class="point"', done.stdout)) >= 400
    assert "&lt;script&gt;alert('x')&lt;/script&gt;" in done.stdout
