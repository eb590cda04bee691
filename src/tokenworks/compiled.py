"""Compiled modules take the place of their sources while these sources are the ones that were compiled.

`scripts/compile.py` translates the hot modules (compiled.toml) with mypyc. Its result is a folder: one shared library and a manifest
that names the modules in it and the digest of every source that it depends on. A wheel has the folder in the package, a checkout in
`build/compiled`. `install` puts a finder before Python's own; the finder reads the sources once, when the first of the modules is
imported, and stands back if one differs: who edits a module runs what was edited, and `state` says why nothing is compiled.

`TOKENWORKS_COMPILE=0` runs the sources, whatever there is; with `TOKENWORKS_COMPILE=1` it is an error where they would run.
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
# An extension module fits one minor version of Python on one platform.
TAG: Final = (
    EXTENSION_SUFFIXES[0].strip(".").rpartition(".")[0] or f"{sys.implementation.cache_tag}-{sys.platform}"
)
_DIGEST_BYTES: Final = 16


class Compiled(NamedTuple):
    """A folder of compiled modules. `modules`: module -> file in it; `sources`: path in the package -> digest."""

    folder: Path
    modules: dict[str, str]
    sources: dict[str, str]


class State(NamedTuple):
    """What runs: `word` is "compiled" or "interpreted"; `reason` says why it is not compiled, and is empty otherwise."""

    word: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word


def folders() -> tuple[Path, ...]:
    """Where compiled modules lie: those of a wheel, and those of the checkout that the package is in."""
    return (PACKAGE / "native" / TAG, PACKAGE.parents[1] / "build" / "compiled" / TAG)


def read(folder: Path) -> Compiled | None:
    """What a folder has; None where it is empty or its manifest is not one."""
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
    """The first source that is not the one that was compiled; empty where all of them are."""
    for name, expected in compiled.sources.items():
        try:
            if digest((package / name).read_bytes()) == expected:
                continue
        except OSError:
            pass
        return name
    return ""


class _Finder:
    """Finds the modules of one folder; those of other names, and all of them once a source differs, are for the finders after it."""

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
            _insist(self.state)
            return None
        location = str(self._compiled.folder / file)
        return spec_from_file_location(fullname, location, loader=ExtensionFileLoader(fullname, location))


def _finder() -> _Finder | None:
    return next((one for one in sys.meta_path if isinstance(one, _Finder)), None)


def _insist(state: State) -> None:
    if os.environ.get(VARIABLE) == "1" and state.reason:
        raise ImportError(f"{VARIABLE}=1, but nothing compiled can be run: {state.reason}")


def install() -> None:
    """Let compiled modules be imported where there are any. ImportError where there are none and `TOKENWORKS_COMPILE=1`."""
    if os.environ.get(VARIABLE) == "0" or _finder() is not None:
        return
    found = next((compiled for folder in folders() if (compiled := read(folder)) is not None), None)
    if found is not None:
        sys.meta_path.insert(0, _Finder(found))
    _insist(State("compiled") if found is not None else state())


def state() -> State:
    """What this process runs, or would run: of modules that no one has imported yet, too."""
    finder = _finder()
    if finder is not None:
        return finder.state
    off = os.environ.get(VARIABLE) == "0"
    return State("interpreted", f"{VARIABLE}=0" if off else "no compiled modules are installed")
