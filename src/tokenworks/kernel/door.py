"""The door of a room: a name that a room exports is loaded when it is first asked for.

`__init__.pyi` beside a room's `__init__.py` lists the exports with the modules that define them. Type checkers read it, and so does
`open_door`; there is no other list. A process that needs one service of a room does not import the others.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package whose exports are imported on first use. `__all__` has their names."""

    _exports: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        found = self._exports.get(name)
        if found is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        module, original = found
        value = getattr(import_module(module), original)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds each submodule in its package. An export of the same name (`simulate`) wins.
        if name not in self._exports or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._exports})


def open_door(package: str) -> None:
    """Make the package export what its `__init__.pyi` imports. Called in its `__init__.py`, once."""
    room = sys.modules[package]
    exports = stub_exports(Path(str(room.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    room.__dict__.update(_exports=exports, __all__=sorted(exports))
    room.__class__ = _Room


def stub_exports(stub: str) -> dict[str, tuple[str, str]]:
    """Name -> (module, its name there), for every import of a stub."""
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
