"""Which build the tests run on: the sources, or compiled modules (docs/decisions/0059)."""

import pytest

from tokenworks import compiled

IS_COMPILED = compiled.state().word == "compiled"
on_sources = pytest.mark.skipif(
    IS_COMPILED,
    reason="it hands in a stand-in; a compiled module takes objects of the declared classes alone",
)
