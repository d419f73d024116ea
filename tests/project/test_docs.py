"""The documentation: its Python blocks run, printed numbers are the stated ones, every name exists and is listed."""

import contextlib
import inspect
import io
import itertools
import pkgutil
import re
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

import omt_expfam as omt

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if "_build" not in p.parts)
# The first that a user runs are quick, and compiled as users compile.
FIRST = ("index.md", "getting-started.md")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?"


def blocks(text):
    """Line, code and, where a ```text block follows directly, the stated output of every ```python block."""
    fences = list(FENCE.finditer(text))
    for fence, after in itertools.zip_longest(fences, fences[1:]):
        if fence[1] == "python":
            direct = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
            yield text.count("\n", 0, fence.start()) + 1, fence[2], after[2] if direct else None


def agree(stated, printed):
    """The same words, and numbers within one unit of the last stated digit or one percent; ``...`` is anything."""
    # NumPy fills up digits that are zero with spaces.
    stated, printed = (re.sub(r" ?([][]) ?", r"\1", " ".join(text.split())) for text in (stated, printed))
    pieces = re.split(rf"(\.\.\.|{NUMBER})", stated)
    pattern = "".join(
        ".*?" if p == "..." else f"({NUMBER})" if re.fullmatch(NUMBER, p) else re.escape(p).replace(r"\ ", r"\s+")
        for p in pieces
    )
    match = re.fullmatch(pattern, printed)
    numbers = [p for p in pieces if re.fullmatch(NUMBER, p)]
    return match is not None and all(_close(n, m) for n, m in zip(numbers, match.groups(), strict=True))


def _close(stated, printed):
    mantissa, _, exponent = stated.lower().partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(stated) - float(printed)) <= 1.01 * unit + 0.01 * abs(float(stated))


def test_the_comparison_itself():
    assert agree("a 1.00 [2.]  b\n", "a 1.009 [2.] b")
    assert agree("[[1.5042 2.25]\n [3.501 4.5]]", "[[1.504  2.2501]\n [3.501  4.5   ]]")
    assert agree("x ... 3 steps", "x 1e-7 after 4 steps")
    assert not agree("a 1.00", "a 1.03")
    assert not agree("a 1.00", "b 1.00")
    assert not agree("a 1.00", "a 1.00 2.00")


@pytest.mark.loose
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=pytest.mark.optimized if p in FIRST else pytest.mark.slow)
        for p in PAGES
        if any(blocks((DOCS / p).read_text()))
    ],
)
def test_page_runs(page, kept_programs, tmp_path, monkeypatch):
    """The blocks of a page run one after the other, as a reader runs them."""
    monkeypatch.chdir(tmp_path)
    names, before = {"__name__": "__docs__"}, jax.config.jax_enable_x64
    try:
        for line, code, stated in blocks((DOCS / page).read_text()):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * line + code, str(DOCS / page), "exec"), names)
            if stated is not None:
                assert agree(stated, printed.getvalue()), f"{page}:{line} printed\n{printed.getvalue()}"
    finally:
        jax.config.update("jax_enable_x64", before)
        plt.close("all")


def test_every_outcome_has_its_section():
    page = (DOCS / "convergence.md").read_text()
    flat = " ".join(page.replace("\n> ", "\n").split())
    for name, result in ((n, getattr(omt.RESULTS, n)) for n in omt.RESULTS._name_to_item):
        assert f"\n### `{name}`\n" in page
        assert " ".join(omt.RESULTS[result].split()) in flat


@pytest.mark.parametrize("page", PAGES)
def test_named_things_exist(page):
    text = (DOCS / page).read_text()
    for name in re.findall(r"`(omt(?:_expfam)?(?:\.\w+)+)", text):
        pkgutil.resolve_name(re.sub(r"^omt\b", "omt_expfam", name))
    for path in re.findall(r"`((?:families|benchmarks)/\w+\.py)`", text):
        assert (DOCS.parent / path).exists(), path


def test_every_public_name_is_in_the_reference():
    reference = (DOCS / "api.md").read_text()
    assert len(omt.__all__) > 40
    for name in omt.__all__:
        assert re.search(rf"omt_expfam\.{name}(\(.*\))?$", reference, re.MULTILINE), name
    for name, value in vars(omt.results).items():
        if inspect.isclass(value):
            assert re.search(rf"omt_expfam\.results\.{name}(\(\))?$", reference, re.MULTILINE), name
    for name, value in vars(omt.extend).items():
        if inspect.isclass(value) and value.__module__.startswith("omt_expfam"):
            known = rf"omt_expfam\.(extend\.)?{name}(\(.*\))?$"
            assert re.search(known, reference, re.MULTILINE), name
    for name, value in vars(omt.diagnostics).items():
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("omt_expfam"):
            assert re.search(rf"omt_expfam\.diagnostics\.{name}(\(\))?$", reference, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES)
def test_formulas_do_not_begin_a_list(page):
    """A line that begins with a sign within a formula is a list or a quotation to Markdown, and the formula is lost."""
    blank = lambda match: "\n" * match[0].count("\n")
    text = re.sub(r"```.*?```|\$\$.*?\$\$|`[^`]*`", blank, (DOCS / page).read_text(), flags=re.DOTALL)
    inside, wrong = False, []
    for number, line in enumerate(text.splitlines(), 1):
        inside = inside and bool(line.strip())
        if inside and re.match(r"\s*([-+*>]|\d+[.)]|#+)\s", line):
            wrong.append(number)
        inside ^= len(re.findall(r"(?<!\\)\$", line)) % 2 == 1
    assert not wrong, f"{page}: lines {wrong}"


def test_every_example_is_in_the_gallery():
    page = (DOCS / "gallery.md").read_text()
    examples = {path.name for path in (DOCS.parent / "examples").glob("*.py")}
    assert set(re.findall(r"literalinclude\} \.\./examples/(\w+\.py)", page)) == examples
    pictures = re.findall(r"^!\[(.+)\]\((images/\w+\.png)\)$", page, re.MULTILINE)
    assert len(pictures) >= len(examples)
    for words, path in pictures:
        assert len(words) > 30, f"{path} must be described for those who do not see it"
        assert (DOCS / path).exists()


def test_first_questions_have_pages_on_data_that_a_package_ships():
    """By their titles; and the side bar holds every page, in groups."""
    index = (DOCS / "index.md").read_text()
    groups = dict(re.findall(r"```\{toctree\}\n:hidden:\n:caption: (\w+)\n\n(.*?)\n```", index, re.DOTALL))
    assert list(groups) == ["Start", "Guides", "Gallery", "Theory", "Experiments", "Reference"]
    listed = [f"{name}.md" for names in groups.values() for name in names.split()]
    pages = {page for page in PAGES if "/" not in page} - {"index.md"}
    assert set(listed) == pages | {"experiments/index.md", "theory/index.md"}
    assert len(listed) == len(set(listed))
    titles = {(DOCS / page).read_text().splitlines()[0]: (DOCS / page).read_text() for page in listed}
    wanted = "From AnnData to a plan in ten lines", "Label transfer", "My groups change their shares"
    for title in (*wanted, "Which epsilon, which K"):
        assert "from sklearn.datasets import load_" in titles[f"# {title}"]
        assert any(blocks(titles[f"# {title}"]))
