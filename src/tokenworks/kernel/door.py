"""The exports of a room: a name that a room exports is imported at its first use.

`__init__.pyi` beside a room's `__init__.py` lists the exports with the modules that define them. Type checkers and `open_door` read it;
there is no other list. So a process that needs one service of a room does not import the others.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


class _Room(ModuleType):
    """A package whose exports are imported at their first use. `__all__` has their names."""

    _exports: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> object:
        found = self._exports.get(name)
        if found is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        module, original = found
        value: object = getattr(import_module(module), original)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # The import system sets each submodule as an attribute of its package. An export of the same name (`simulate`) takes precedence.
        if name not in self._exports or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._exports})


def open_door(package: str) -> None:
    """Make a package export what its `__init__.pyi` imports. Called once, in its `__init__.py`."""
    room = sys.modules[package]
    exports = stub_exports(Path(str(room.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    room.__dict__.update(_exports=exports, __all__=sorted(exports))
    room.__class__ = _Room


def stub_exports(stub: str) -> dict[str, tuple[str, str]]:
    """Exported name -> (module, name in that module), for every import of a stub."""
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
