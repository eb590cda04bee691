"""A room exports what its stub says, when it is asked for."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tokenworks
from tokenworks.kernel.door import stub_exports

ROOMS = sorted(path.parent.name for path in Path(tokenworks.__file__).parent.glob("*/__init__.pyi"))


def stub(room):
    return (Path(tokenworks.__file__).parent / room / "__init__.pyi").read_text()


def test_the_rooms_have_stubs():
    assert ROOMS == [
        "billing", "catalog", "charging", "factory", "gateway", "subscriptions", "trust",
    ]  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_each_export_is_the_one_of_its_module(room):
    door = importlib.import_module(f"tokenworks.{room}")
    for name, (module, original) in stub_exports(stub(room)).items():
        found = getattr(door, name)
        assert found is getattr(importlib.import_module(module), original), name
        assert not isinstance(found, ModuleType), name
        assert name in dir(door)


@pytest.mark.parametrize("room", ROOMS)
def test_a_stub_says_no_more_than_imports_and_all(room):
    *imports, last = ast.parse(stub(room)).body
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert set(ast.literal_eval(last.value)) == set(stub_exports(stub(room)))
    assert set(importlib.import_module(f"tokenworks.{room}").__all__) == set(stub_exports(stub(room)))


def test_what_no_stub_says_is_no_attribute():
    import tokenworks.trust

    with pytest.raises(AttributeError, match=r"module 'tokenworks\.trust' has no attribute 'magic'"):
        _ = tokenworks.trust.magic
    with pytest.raises(ImportError, match="magic"):
        from tokenworks.trust import magic  # noqa: F401


ORDERS = """
import json, sys
import tokenworks.factory, tokenworks.trust
loaded = [sorted(m for m in sys.modules if m.startswith(("tokenworks.factory.", "tokenworks.trust.")))]
import tokenworks.factory.simulation.simulate, tokenworks.trust.vault.skeleton
from tokenworks.factory import simulate
from tokenworks.trust import skeleton
from tokenworks.trust.keys import store
print(json.dumps([loaded, type(simulate).__name__, type(skeleton).__name__, store.__name__]))
"""


def test_a_room_loads_nothing_until_it_is_asked_and_an_export_wins_over_its_submodule():
    done = subprocess.run([sys.executable, "-c", ORDERS], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[[]], "function", "function", "tokenworks.trust.keys.store"]
