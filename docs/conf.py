"""Sphinx configuration."""

import importlib.metadata
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "omt-expfam"
author = "The omt-expfam developers"
copyright = author
try:
    release = importlib.metadata.version("omt-expfam")
except importlib.metadata.PackageNotFoundError:
    release = ""

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "omt-expfam"
html_theme_options = {"show_toc_level": 2}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
# `Name` in a docstring is a link where there is something to link to, and code otherwise.
default_role = "py:obj"
# autodoc cannot pickle these; nothing is lost.
suppress_warnings = ["config.cache"]

_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<!\\)\$([^$]+?)\$", re.DOTALL)
_CODE = re.compile(r"(``.+?``|`.+?`)", re.DOTALL)


def to_rst(app, what, name, obj, options, lines):
    """Docstrings hold Markdown's dollar math; |x| would be a substitution in reStructuredText."""
    parts = []
    for position, part in enumerate(_DISPLAY.split("\n".join(lines))):
        if position % 2:
            indent = re.search(r"( *)$", parts[-1])[1] if parts else ""
            parts.append(f"\n{indent}.. math::\n\n{indent}    {' '.join(part.split())}\n\n{indent}")
            continue
        for place, text in enumerate(_INLINE.split(part)):
            if place % 2:
                parts.append(f":math:`{' '.join(text.split())}`")
            else:
                pieces = _CODE.split(text)
                pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
                parts.append("".join(pieces))
    lines[:] = "".join(parts).split("\n")


def setup(app):
    """Read docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", to_rst, priority=100)
