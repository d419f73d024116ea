"""Whether a family is what its methods say, one against the other.

It may import what fitting may.
"""
