"""The look of the page: one style sheet for light and dark screens and for paper, and the script that draws charts."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1f24; --soft: #5a626d; --line: #d9dde3; --wash: #f4f6f8;
  --accent: #0063a3; --good: #1a7f4b; --look: #a84a00; --note: #5a626d; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e9ed; --soft: #a3acb8; --line: #363c45;
  --wash: #1e2228; --accent: #6db9f2; --good: #5cc98f; --look: #f0a060; --note: #a3acb8; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.6; font-size: 1.0625rem;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
header, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 3rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; }
p, ul, dl { max-width: 46rem; }
p, li, dd, td, th { overflow-wrap: break-word; }
a { color: var(--accent); }
a:focus-visible, [tabindex]:focus-visible, summary:focus-visible { outline: 3px solid var(--accent);
  outline-offset: 2px; }
.lead { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 0;
  max-width: none; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem 1rem; z-index: 9; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0;
  max-width: none; }
.tiles div { background: var(--wash); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.tiles dt { color: var(--soft); font-size: .9rem; }
.tiles dd { margin: 0; font-size: 1.4rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--soft); line-height: 1.4; }
.advice { border-left: .3rem solid var(--look); background: var(--wash); padding: .6rem 1rem; margin: .75rem 0; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .97rem; }
caption { text-align: left; color: var(--soft); padding: .25rem 0 .5rem; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; max-width: 22rem; }
tbody tr:hover { background: var(--wash); }
.mark { font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .look { color: var(--look); } .note { color: var(--note); }
figure { margin: 1.25rem 0; }
figcaption { color: var(--soft); font-size: .95rem; max-width: 46rem; }
.chart { width: 100%; }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; line-height: 1.5; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { color: var(--soft); font-size: .9rem; padding: 2rem 1.25rem; }
.chart .main-svg { background: transparent !important; }
.chart svg .infolayer text, .chart svg .cartesianlayer text, .chart svg .sankey text { fill: var(--ink) !important; }
.chart svg .sankey text { text-shadow: 0 0 3px var(--paper), 0 0 3px var(--paper), 0 0 3px var(--paper) !important; }
.chart svg .gridlayer path, .chart svg .zerolinelayer path { stroke: var(--line) !important; }
.chart svg .legend .bg { fill: transparent !important; }
.chart svg .modebar-btn path { fill: var(--soft) !important; }
@media print { nav, .modebar-container { display: none; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } body { font-size: 11pt; } }
"""

# Charts are data, in elements that no browser runs; this alone runs, after the library.
SCRIPT = """
for (const chart of document.querySelectorAll(".chart")) {
  const figure = JSON.parse(document.getElementById(chart.id + "-data").textContent);
  Plotly.newPlot(chart, figure.data, figure.layout,
    {responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtons: [figure.layout.meta]});
}
"""
