"""Transport between laws on the circle: tables of angles, and the problems between them.

May import what `_couplings` may.
"""
