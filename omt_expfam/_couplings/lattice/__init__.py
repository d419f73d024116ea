"""Entropic transport between laws on whole numbers: windows of counts, and the problems between them.

May import what `_couplings` may.
"""
