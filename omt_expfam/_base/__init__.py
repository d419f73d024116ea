"""What every other package stands on: arguments, arrays, compilation, precision and results.

Imports nothing of ours.
"""
