"""Sphinx configuration."""

import ast
import importlib.metadata
import inspect
import re
import sys
import textwrap
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "omt-expfam"
author = "The omt-expfam developers"
copyright = author
try:
    release = importlib.metadata.version("omt-expfam")
except importlib.metadata.PackageNotFoundError:
    release = ""

# The last one ships MathJax, so that formulas need no network.
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "omt-expfam"
html_theme_options = {"show_toc_level": 2}
html_static_path = ["_static"]
html_css_files = ["site.css"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
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
    if what == "property" and ": " in lines[0]:
        # napoleon takes what stands before a colon for a type.
        lines[:1] = lines[0].replace(": ", ":\n", 1).split("\n")


def written_signature(app, what, name, obj, options, signature, returns):
    """Show signatures as they are written: at run time `ArrayLike` is `Any`, and shapes are classes."""
    hidden = inspect.isclass(obj) and signature == "()"
    try:
        source = inspect.getsource(inspect.unwrap(obj.__init__ if inspect.isclass(obj) else obj))
    except (OSError, TypeError):
        return None
    node = ast.parse(textwrap.dedent(source)).body[0]
    if hidden or not isinstance(node, ast.FunctionDef):
        return None
    if node.args.args and node.args.args[0].arg in ("self", "cls"):
        del node.args.args[0]
    text = f"({ast.unparse(node.args)})\n{ast.unparse(node.returns) if node.returns else ''}"
    # Names in quotes are forward references, and a leading space marks a shape with one axis.
    text = re.sub(r"(: |\n|\[)'([\w.]+)'", r"\1\2", re.sub(r"' (\w+)'", r"'\1'", text))
    return tuple(text.split("\n"))


def short_types(app, doctree):
    """The public name of JAX's array class, in the types of properties."""
    for signature in doctree.findall(addnodes.desc_signature):
        for text in list(signature.findall(nodes.Text)):
            if "jaxlib._jax.Array" in text:
                text.parent.replace(text, nodes.Text(text.replace("jaxlib._jax.Array", "Array")))


def setup(app):
    """Read docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", to_rst, priority=100)
    app.connect("autodoc-process-signature", written_signature)
    app.connect("doctree-read", short_types)
