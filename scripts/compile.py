"""Compiles the hot modules with mypyc: `python scripts/compile.py` puts them where `tokenworks.compiled` finds them.

compiled.toml lists the modules. Without a C compiler or mypy nothing is compiled, and a line says so; that is no error, unless
TOKENWORKS_COMPILE=1. TOKENWORKS_COMPILE=0 skips it. What was compiled is kept in a cache, and taken from there while its sources and
tools are the same. Everything here but mypy is of the standard library: the build hook runs it before anything is installed.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
LIST: Final = "compiled.toml"
# `CFLAGS` come after them. No debugging information: it would be most of the library.
FLAGS: Final = (
    "-O2",
    "-g0",
    "-fPIC",
    "-fwrapv",
    "-fvisibility=hidden",
    "-fno-semantic-interposition",
    "-DNDEBUG",
    "-w",
)
LINK_FLAGS: Final = ("-shared", "-Wl,-O1", "-Wl,-s")
# Of what is made here: raised where this script makes it otherwise.
FORM: Final = 1
# Compilations that the cache keeps: those of two branches, for two versions of Python.
CACHED_MAX: Final = 4
# mypyc puts an underscore before an attribute's name: what `_thread` becomes is a keyword of C.
KEYWORDS: Final = re.compile(
    r"\b__(alignof|asm|complex|const|imag|inline|label|real|restrict|signed|thread|typeof|volatile)\b"
)
BAR_WIDTH: Final = 30
# Of what a C compiler says, the first lines.
SAID_MAX: Final = 20
# Of lines about the progress, where no terminal is.
LINES_MAX: Final = 5

Said = Callable[[str], None]


class NotCompiled(Exception):
    """Why there is nothing compiled."""


class Listed(NamedTuple):
    """compiled.toml, applied to the sources. `modules`: name -> path; `left`: path in the package -> reason."""

    group: str
    modules: dict[str, Path]
    left: dict[str, str]
    digest: str


class Tools(NamedTuple):
    """What compiles. All of it is part of what a cached compilation has to agree with."""

    compiler: list[str]
    version: str
    mypy: str
    flags: list[str]

    def described(self, listed: Listed) -> dict[str, Any]:
        return {
            "list": listed.digest, "mypy": self.mypy, "compiler": self.version, "flags": [*self.flags, *LINK_FLAGS],
            "python": sys.version, "form": FORM,
        }  # fmt: skip


def listed_in(root: Path) -> Listed:
    """The modules to compile. SystemExit where the list names what is not there."""
    content = (root / LIST).read_bytes()
    table = tomllib.loads(content.decode())
    package = package_of(root)
    containing = {re.compile(pattern): why for pattern, why in table["leave"].get("containing", {}).items()}
    named = table["leave"].get("named", {})
    modules: dict[str, Path] = {}
    left: dict[str, str] = {}
    for pattern in table["modules"]:
        found = sorted(package.glob(pattern))
        if not found:
            raise SystemExit(f"{LIST}: {pattern} matches nothing")
        for path in found:
            name = path.relative_to(package).as_posix()
            text = path.read_text()
            why = next((why for glob, why in named.items() if fnmatch(name, glob)), None)
            why = why or next((why for pattern_, why in containing.items() if pattern_.search(text)), None)
            if why is not None:
                left[name] = why
            else:
                modules[".".join(path.relative_to(package.parent).with_suffix("").parts)] = path
    for glob in named:
        if not any(fnmatch(name, glob) for name in left):
            raise SystemExit(f"{LIST}: it leaves {glob} out, which is not in it")
    return Listed(table["group"], dict(sorted(modules.items())), left, _hex(content))


def package_of(root: Path) -> Path:
    return root / "src" / "tokenworks"


def runtime_of(root: Path) -> ModuleType:
    """`tokenworks.compiled` of that tree, which has to read what is made here."""
    path = package_of(root) / "compiled.py"
    spec = importlib.util.spec_from_file_location("_tokenworks_compiled", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def tools() -> Tools:
    """The C compiler (`CC`, or that of Python) and mypy. NotCompiled where one is not here."""
    if sys.implementation.name != "cpython":
        raise NotCompiled(f"mypyc compiles for CPython alone, not for {sys.implementation.name}")
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            break
    else:
        raise NotCompiled("there is no C compiler (Debian: apt-get install gcc libc6-dev)")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise NotCompiled(
            f"the headers of Python are not here: {header} (Debian: apt-get install python3-dev)"
        )
    try:
        mypy = importlib.metadata.version("mypy")
    except importlib.metadata.PackageNotFoundError:
        raise NotCompiled("mypy is not installed in this environment") from None
    done = subprocess.run([words[0], "--version"], capture_output=True, text=True, check=False)
    compiler = [words[0], *(word for word in words[1:] if word == "-pthread")]
    flags = [*FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]
    return Tools(compiler, done.stdout.partition("\n")[0], mypy, flags)


def _hex(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Progress:
    """A bar on a terminal, and a few lines elsewhere."""

    def __init__(self, say: Said) -> None:
        self._say = say
        self._began_s = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def line(self, text: str) -> None:
        self._say(f"compile: {text} ({time.monotonic() - self._began_s:.0f} s)")

    def at(self, done: int, total: int, what: str) -> None:
        if self._terminal:
            full = BAR_WIDTH * done // total
            bar = "#" * full + "." * (BAR_WIDTH - full)
            sys.stderr.write(f"\r\x1b[Kcompile: [{bar}] {done}/{total} {what if done < total else ''}")
            sys.stderr.write("\n" if done == total else "")
            sys.stderr.flush()
        elif done * LINES_MAX // total != (done - 1) * LINES_MAX // total:
            self.line(f"{done} of {total} C files")


def translate(
    root: Path, listed: Listed, target: Path, annotate: Path | None
) -> tuple[list[Path], set[Path], Path]:
    """(C files, sources that they depend on, folder of the C headers). NotCompiled with mypy's messages."""
    from mypy.errors import CompileError
    from mypy.fscache import FileSystemCache
    from mypy.main import process_options
    from mypyc.annotate import generate_annotated_html
    from mypyc.codegen import emitmodule
    from mypyc.common import RUNTIME_C_FILES
    from mypyc.errors import Errors
    from mypyc.options import CompilerOptions

    cache = FileSystemCache()
    sources, options = process_options(
        ["--config-file", "", "--ignore-missing-imports", *map(str, listed.modules.values())],
        fscache=cache,
        mypyc=True,
    )
    options.python_version = sys.version_info[:2]
    options.show_traceback = options.export_types = options.preserve_asts = True
    options.incremental = False
    options.mypy_path = [str(root / "src")]
    options.mypyc_annotation_file = str(annotate) if annotate else None
    for source in sources:
        options.per_module_options.setdefault(source.module, {})["mypyc"] = True
    sources.sort(key=lambda source: source.module)
    if [source.module for source in sources] != list(listed.modules):
        raise NotCompiled("mypy names the modules otherwise")
    # A C file for each module: they are compiled at once, and as fast as one file of all of them.
    how = CompilerOptions(multi_file=True, target_dir=str(target), group_name=listed.group)
    groups = [(sources, listed.group)]
    try:
        result = emitmodule.parse_and_typecheck(sources, options, how, groups, cache)
    except CompileError as error:
        raise NotCompiled("\n".join(["mypy refuses the sources:", *error.messages])) from None
    try:
        errors = Errors(options)
        modules, texts, mapper = emitmodule.compile_modules_to_c(result, how, errors, groups)
        messages = errors.new_messages()
        if errors.num_errors:
            raise NotCompiled(
                "\n".join(
                    ["mypyc refuses the sources:", *(line for line in messages if ": warning: " not in line)]
                )
            )
        if annotate is not None:
            generate_annotated_html(str(annotate), result, modules, mapper)
        package = package_of(root)
        used = {
            Path(tree.path).resolve() for tree in result.files.values()
            if tree.path and Path(tree.path).resolve().is_relative_to(package)
        }  # fmt: skip
        needed = sorted(emitmodule.collect_source_dependencies(modules), key=lambda one: one.path)
    finally:
        result.manager.metastore.close()
    library = Path(emitmodule.__file__).parents[1] / "lib-rt"
    files = []
    for name, text in texts[0]:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(KEYWORDS.sub(r"_attr_\1", text))
        if path.suffix == ".c":
            files.append(path)
    files += [
        library / name for name in (*RUNTIME_C_FILES, *(one.path for one in needed)) if name.endswith(".c")
    ]
    return files, used, library


def shims(listed: Listed, target: Path, library: Path) -> list[tuple[Path, list[str]]]:
    """(C file, modules whose initialisation it exports). Python looks for one by the last part of the module's name: modules that share
    it are in different files. The first file goes into the library itself.
    """
    from mypyc.common import shared_lib_name
    from mypyc.namegen import exported_name

    template = (library / "module_shim.tmpl").read_text()
    template = template[: template.index("// distutils sometimes")]
    levels: list[dict[str, str]] = []
    for module in listed.modules:
        last = module.rpartition(".")[2]
        level = next((one for one in levels if last not in one), None)
        if level is None:
            levels.append(level := {})
        level[last] = module
    made = []
    for at, level in enumerate(levels):
        path = target / f"shims_{at}.c"
        path.write_text("".join(
            template.format(modname=last, libname=shared_lib_name(listed.group), full_modname=exported_name(module))
            for last, module in level.items()
        ))  # fmt: skip
        made.append((path, list(level.values())))
    return made


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotCompiled("\n".join([shlex.join(command), *done.stderr.splitlines()[:SAID_MAX]]))


def to_objects(
    tools_: Tools, files: list[Path], target: Path, library: Path, progress: Progress
) -> dict[Path, Path]:
    """Compile the C files, as many at once as there are processors; the largest first."""
    include = [f"-I{path}" for path in (target, library, sysconfig.get_path("include"))]
    objects = {path: target / f"{at}.o" for at, path in enumerate(files)}

    def one(path: Path) -> Path:
        # The runtime's own headers in sub-folders (librt) are found beside the file.
        run(
            [
                *tools_.compiler,
                *tools_.flags,
                *include,
                f"-I{path.parent}",
                "-c",
                str(path),
                "-o",
                str(objects[path]),
            ]
        )
        return path

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = [pool.submit(one, path) for path in sorted(files, key=lambda path: -path.stat().st_size)]
        try:
            for at, done in enumerate(concurrent.futures.as_completed(running), 1):
                progress.at(at, len(files), done.result().stem.removeprefix("__native_").replace("___", "."))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return objects


def compile_into(
    root: Path, listed: Listed, tools_: Tools, folder: Path, progress: Progress, annotate: Path | None
) -> None:
    """Fill the folder with a library and its manifest. NotCompiled with the reason."""
    runtime = runtime_of(root)
    package = package_of(root)
    with tempfile.TemporaryDirectory(prefix="tokenworks-compile-") as temporary:
        target = Path(temporary)
        before = digests(package, runtime)
        progress.line(f"translating {len(listed.modules)} modules to C")
        files, used, library = translate(root, listed, target, annotate)
        if digests(package, runtime) != before:
            raise NotCompiled("a source has changed while it was translated: run it again")
        levels = shims(listed, target, library)
        progress.line(f"compiling {len(files) + len(levels)} C files")
        objects = to_objects(tools_, [*files, *(path for path, _ in levels)], target, library, progress)
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        main = f"{listed.group}__mypyc"
        modules = {main: main + suffix}
        link = [*tools_.compiler, *LINK_FLAGS]
        for at, (path, names) in enumerate(levels):
            file = main + suffix if at == 0 else f"{listed.group}_{at}{suffix}"
            parts = [objects[path], *(map(objects.get, files) if at == 0 else ())]
            run([*link, *map(str, parts), "-o", str(folder / file)])
            modules |= dict.fromkeys(names, file)
    manifest = {
        "modules": modules,
        "sources": {
            name: before[name]
            for name in sorted(
                path.relative_to(package).as_posix() for path in used | set(listed.modules.values())
            )
        },
        "tools": tools_.described(listed),
    }
    (folder / runtime.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def digests(package: Path, runtime: ModuleType) -> dict[str, str]:
    return {
        path.relative_to(package).as_posix(): runtime.digest(path.read_bytes())
        for pattern in ("*.py", "*.pyi")
        for path in package.rglob(pattern)
    }


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "tokenworks" / "compiled"


def cached(root: Path, listed: Listed, tools_: Tools) -> Path | None:
    """A compilation of these very sources by these tools, that was kept."""
    for folder in cache_folder().glob("*"):
        if agrees(folder, root, listed, tools_):
            os.utime(folder)
            return folder
    return None


def agrees(folder: Path, root: Path, listed: Listed, tools_: Tools) -> bool:
    """True if what a folder has was made of these sources by these tools."""
    runtime = runtime_of(root)
    found = runtime.read(folder)
    if found is None or runtime.difference(found, package_of(root)):
        return False
    manifest: dict[str, Any] = json.loads((folder / runtime.MANIFEST).read_bytes())
    return manifest.get("tools") == tools_.described(listed)


def keep(made: Path, manifest: str) -> None:
    """Put a compilation into the cache, and let go of the oldest beyond its limit."""
    base = cache_folder()
    base.mkdir(parents=True, exist_ok=True)
    place_whole(made, base / _hex((made / manifest).read_bytes()))
    oldest_first = sorted(
        (one for one in base.iterdir() if not one.name.startswith(".")), key=lambda one: one.stat().st_mtime
    )
    for folder in oldest_first[:-CACHED_MAX]:
        shutil.rmtree(folder, ignore_errors=True)


def place_whole(made: Path, folder: Path) -> None:
    """Copy a folder to its place at once: a process that starts meanwhile finds the one of before or this one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        shutil.copytree(made, new)
        new.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        new.rename(folder)


def compiled_for(root: Path, out: Path, say: Said, annotate: Path | None = None) -> bool:
    """Put compiled modules of these sources into `out`. False where there are none, which `say` was told of: what is in `out` then is of
    other sources, and does not run. NotCompiled where there are none and TOKENWORKS_COMPILE=1.
    """
    wanted = os.environ.get("TOKENWORKS_COMPILE", "")
    progress = Progress(say)
    try:
        if wanted == "0":
            raise NotCompiled("TOKENWORKS_COMPILE=0")
        listed, tools_, runtime = listed_in(root), tools(), runtime_of(root)
        if not annotate and agrees(out, root, listed, tools_):
            return True
        folder = None if annotate else cached(root, listed, tools_)
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="tokenworks-compiled-") as temporary:
                folder = Path(temporary)
                compile_into(root, listed, tools_, folder, progress, annotate)
                place_whole(folder, out)
                keep(folder, runtime.MANIFEST)
        else:
            place_whole(folder, out)
        progress.line(f"{len(listed.modules)} modules are compiled")
        return True
    except NotCompiled as why:
        if wanted == "1":
            raise
        say(f"compile: nothing is compiled, the sources run interpreted: {why}")
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the hot modules with mypyc.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree whose modules are compiled")
    parser.add_argument("--annotate", type=Path, help="write mypyc's annotated sources into this HTML file")
    parser.add_argument(
        "--list", action="store_true", help="print which modules are compiled, and which are not and why"
    )
    options = parser.parse_args()
    root = options.root.resolve()
    if options.list:
        listed = listed_in(root)
        print(
            "\n".join([*listed.modules, *(f"{name}: left out: {why}" for name, why in listed.left.items())])
        )
        return 0
    out = root / "build" / "compiled" / runtime_of(root).TAG

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        compiled_for(root, out, say, options.annotate)
    except NotCompiled as why:
        say(f"compile: {why}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
