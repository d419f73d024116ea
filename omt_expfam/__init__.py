"""Entropic optimal transport between mixture models, for any component family.

The stub beside this file lists the public names. Each loads its module when it is first used, so that importing the
package, as the command line does to print its help, loads nothing else.
"""

import importlib.metadata

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = importlib.metadata.version("omt-expfam")
except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
