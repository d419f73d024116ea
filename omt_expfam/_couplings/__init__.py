"""The block of the components: costs and maps of every pair, by the route that suits it.

May import `_base`, `_numerics` and `_components`.
"""
