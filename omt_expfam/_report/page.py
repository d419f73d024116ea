"""HTML: text that is escaped wherever it comes from, tables, figures, and the page around them."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .style import SCRIPT, STYLE

# Nothing is loaded from anywhere, whatever the page holds: browsers refuse.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)


class Section(NamedTuple):
    """A part of the page: the end of its address, its heading, and what it holds, in HTML."""

    name: str
    title: str
    parts: Sequence[str]


def text(value: object) -> str:
    """Whatever it is, as text."""
    return html.escape(str(value), quote=True)


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def code(value: str) -> str:
    """Text as it is, each line a line."""
    return f"<pre><code>{text(value)}</code></pre>"


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """Numbers that stand out: what it is, the number, and what it means."""
    cells = (f"<div><dt>{text(a)}</dt><dd>{text(b)} <small>{text(c)}</small></dd></div>" for a, b, c in entries)
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[int] = ()) -> str:
    """A table whose first column names its rows; those of ``numbers`` are set to the right."""

    def kind(place: int) -> str:
        return ' class="number"' if place in numbers else ""

    head = "".join(f'<th scope="col"{kind(place)}>{text(name)}</th>' for place, name in enumerate(columns))
    body = []
    for row in rows:
        first, *rest = (cell if isinstance(cell, Marked) else text(cell) for cell in row)
        cells = "".join(f"<td{kind(place)}>{cell}</td>" for place, cell in enumerate(rest, 1))
        body.append(f'<tr><th scope="row"{kind(0)}>{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


class Marked(str):
    """A cell that is HTML already."""


def mark(kind: str) -> Marked:
    """Whether something is fine, in a word and a color."""
    word = {"good": "fine", "look": "look here", "note": "to know"}[kind]
    return Marked(f'<span class="mark {kind}">{word}</span>')


def figure(name: str, chart: Any, description: str, caption: str) -> str:
    """A chart that the page's script draws, with what it shows in words."""
    # A script element ends at the first "</", whatever it holds.
    data = chart.to_json().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    height = int(json.loads(data)["layout"].get("height", 450))
    return (
        f'<figure><div class="chart" id="chart-{text(name)}" role="img" aria-label="{text(description)}" '
        f'style="min-height:{height}px"></div><figcaption>{text(caption)}</figcaption>'
        f'<script type="application/json" id="chart-{text(name)}-data">{data}</script></figure>'
    )


def page(title: str, lead: str, sections: Sequence[Section], library: str, generator: str) -> str:
    """The whole page.

    Args:
        title: Its title.
        lead: A sentence below it.
        sections: Its parts.
        library: The source of plotly.js.
        generator: What wrote it.
    """
    links = "".join(f'<li><a href="#{text(part.name)}">{text(part.title)}</a></li>' for part in sections)
    body = "".join(
        f'<section id="{text(part.name)}" aria-labelledby="{text(part.name)}-title">'
        f'<h2 id="{text(part.name)}-title">{text(part.title)}</h2>{"".join(part.parts)}</section>'
        for part in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="{text(generator)}"><title>{text(title)}</title>'
        f"<style>{STYLE}</style></head><body>"
        f'<a class="skip" href="#main">To the text</a><header><h1>{text(title)}</h1>'
        f'<p class="lead">{text(lead)}</p><nav aria-label="Contents"><ul>{links}</ul></nav></header>'
        f'<main id="main"><noscript><p class="advice">The charts need JavaScript; the tables say the same.</p>'
        f"</noscript>{body}</main><footer>{text(generator)}</footer>"
        f"<script>{library}</script><script>{SCRIPT}</script></body></html>\n"
    )
