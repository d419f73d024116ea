"""Entropic transport on the line, on which products of one-dimensional laws stand.

May import `_base`, `_numerics` and `_components`.
"""
