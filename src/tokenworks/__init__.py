"""Tokenworks: the open-source works for AI tokens."""

from tokenworks.compiled import install

__version__ = "0.1.0"

# Before any other module of the package is imported: some of them may be compiled.
install()
