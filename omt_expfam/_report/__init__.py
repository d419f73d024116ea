"""One HTML page on a plan, for a person to read: charts by plotly, tables, diagnostics in words.

What the page says is in `sections` and `words`, its charts in `charts`, and how it looks in `page` and `style`.
"""
