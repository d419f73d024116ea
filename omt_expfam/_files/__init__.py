"""The format of files, without any of the classes in them.

May import `_base`.
"""
