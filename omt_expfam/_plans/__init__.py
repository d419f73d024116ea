"""From two mixtures to a transport plan between them.

May import `_base`, `_components`, `_weights` and `_couplings`.
"""
