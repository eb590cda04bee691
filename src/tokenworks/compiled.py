"""Imports compiled modules in the place of their sources, as long as these are the sources that were compiled.

`scripts/compile.py` compiles the hot modules (compiled.toml) with mypyc. The result is a folder with one shared library and a manifest,
which names the modules in it and the digest of every source that it depends on. A wheel has the folder in the package, a checkout in
`build/compiled`. `install` puts a finder before Python's own. When the first of the modules is imported, the finder reads the sources
once; if one of them differs, it finds no module, so that the edited sources run, and `state` says why nothing is compiled.

With `TOKENWORKS_COMPILE=0` the sources always run; with `TOKENWORKS_COMPILE=1` it is an error if they would run.
"""

import functools
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

VARIABLE: Final = "TOKENWORKS_COMPILE"
MANIFEST: Final = "manifest.json"
PACKAGE: Final = Path(__file__).parent
# An extension module works with one minor version of Python on one platform.
TAG: Final = (
    EXTENSION_SUFFIXES[0].strip(".").rpartition(".")[0] or f"{sys.implementation.cache_tag}-{sys.platform}"
)
_DIGEST_BYTES: Final = 16


class Compiled(NamedTuple):
    """A folder of compiled modules. `modules`: module -> file in the folder; `sources`: path in the package -> digest."""

    folder: Path
    modules: dict[str, str]
    sources: dict[str, str]


class State(NamedTuple):
    """`word` is "compiled" or "interpreted"; `reason` says why the modules are interpreted, and is empty if they are compiled."""

    word: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word


def folders() -> tuple[Path, ...]:
    """The folders for compiled modules: of a wheel, and of the checkout that the package is in."""
    return (PACKAGE / "native" / TAG, PACKAGE.parents[1] / "build" / "compiled" / TAG)


def read(folder: Path) -> Compiled | None:
    """Read a folder's manifest; None if there is none, or it is not valid."""
    try:
        content = (folder / MANIFEST).read_bytes()
        import json  # noqa: PLC0415 - every command imports this file, and most have nothing compiled

        manifest = json.loads(content)
        return Compiled(folder, manifest["modules"], manifest["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def digest(content: bytes) -> str:
    import hashlib  # noqa: PLC0415 - a command that imports no compiled module reads none

    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def difference(compiled: Compiled, package: Path = PACKAGE) -> str:
    """The first source that differs from the one that was compiled; empty if none does."""
    for name, expected in compiled.sources.items():
        try:
            if digest((package / name).read_bytes()) == expected:
                continue
        except OSError:
            pass
        return name
    return ""


class _Finder:
    """Finds the compiled modules of one folder. It finds none if a source differs; Python's own finders then find the sources."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled

    @functools.cached_property
    def state(self) -> State:
        name = difference(self._compiled)
        return (
            State("interpreted", f"{name} has changed since it was compiled") if name else State("compiled")
        )

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._compiled.modules.get(fullname)
        if file is None:
            return None
        if self.state.reason:
            _check_required(self.state)
            return None
        location = str(self._compiled.folder / file)
        return spec_from_file_location(fullname, location, loader=ExtensionFileLoader(fullname, location))


def _finder() -> _Finder | None:
    return next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)


def _check_required(state: State) -> None:
    if os.environ.get(VARIABLE) == "1" and state.reason:
        raise ImportError(f"{VARIABLE}=1, but nothing compiled can be run: {state.reason}")


def install() -> None:
    """Let compiled modules be imported, if there are any. Raises `ImportError` if there are none and `TOKENWORKS_COMPILE=1`."""
    if os.environ.get(VARIABLE) == "0" or _finder() is not None:
        return
    found = next((compiled for folder in folders() if (compiled := read(folder)) is not None), None)
    if found is not None:
        sys.meta_path.insert(0, _Finder(found))
    _check_required(State("compiled") if found is not None else state())


def state() -> State:
    """What this process runs, or would run, as no compiled module may have been imported yet."""
    finder = _finder()
    if finder is not None:
        return finder.state
    off = os.environ.get(VARIABLE) == "0"
    return State("interpreted", f"{VARIABLE}=0" if off else "no compiled modules are installed")
