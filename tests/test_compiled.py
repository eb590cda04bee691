"""Compiled modules take the place of the sources that were compiled, and of no others; both builds are told apart."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.environ import BUILD
from tokenworks import compiled

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts/compile.py"
HOT = """
from typing import Final

STEP: Final = {step}


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += STEP
        return self.count
"""
ASKS = """
from tokenworks import compiled
from tokenworks.gateway.counter import Counter
from tokenworks.charging import counter as other
c = Counter()
c.add()
print(c.add(), other.Counter().add(), type(c.add).__name__, compiled.state())
"""


@pytest.fixture
def project(tmp_path):
    """A small project of this one's form: two modules of the same last name."""
    root = tmp_path / "project"
    package = root / "src/tokenworks"
    for room in ("gateway", "charging"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    shutil.copy(ROOT / "src/tokenworks/compiled.py", package)
    (package / "__init__.py").write_text("from tokenworks.compiled import install\n\ninstall()\n")
    (package / "gateway/counter.py").write_text(HOT.format(step=2))
    (package / "charging/counter.py").write_text(HOT.format(step=7))
    (package / "charging/wire.py").write_text(
        "import msgspec\n\nclass Frame(msgspec.Struct, gc=False):\n    seq: int\n"
    )
    (root / "compiled.toml").write_text(
        'group = "probe"\nmodules = ["gateway/*.py", "charging/*.py"]\n'
        "[leave.containing]\n'(?m)^class \\w+\\(.*\\bStruct\\b' = \"a Struct\"\n"
        '[leave.named]\n"*/__init__.py" = "nothing in it"\n'
    )
    return root


def environ(project, **more):
    # The compiler writes to a cache of its own; nothing but what is asked for says which build runs.
    own = {name: value for name, value in os.environ.items() if name != BUILD}
    return (
        own
        | {"CFLAGS": "-O0", "XDG_CACHE_HOME": str(project / "cache"), "PYTHONPATH": str(project / "src")}
        | more
    )


def compile_(project, *, code=0, **more):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--root", project],
        capture_output=True,
        text=True,
        env=environ(project, **more),
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def asked(project, *, code=0, **more):
    done = subprocess.run(
        [sys.executable, "-c", ASKS], capture_output=True, text=True, env=environ(project, **more)
    )
    assert done.returncode == code, done.stderr
    return done.stdout.strip() if code == 0 else done.stderr


def needs_a_compiler():
    if not any(map(shutil.which, ((sysconfig.get_config_var("CC") or "cc").split()[0], "gcc", "clang"))):
        pytest.skip("no C compiler is here")
    pytest.importorskip("mypyc")


def test_what_was_edited_runs_and_what_was_compiled_is_kept(project):
    needs_a_compiler()
    assert asked(project) == "4 7 method interpreted: no compiled modules are installed"
    assert "nothing compiled can be run" in asked(project, code=1, TOKENWORKS_COMPILE="1")
    said = compile_(project)
    assert "2 modules are compiled" in said
    assert (
        asked(project) == asked(project, TOKENWORKS_COMPILE="1") == "4 7 builtin_function_or_method compiled"
    )
    assert asked(project, TOKENWORKS_COMPILE="0") == "4 7 method interpreted: TOKENWORKS_COMPILE=0"
    # What has not changed is not compiled again.
    assert compile_(project) == ""

    edited = project / "src/tokenworks/charging/counter.py"
    edited.write_text(HOT.format(step=9))
    assert asked(project) == "4 9 method interpreted: charging/counter.py has changed since it was compiled"
    assert "charging/counter.py" in asked(project, code=1, TOKENWORKS_COMPILE="1")
    compile_(project)
    assert asked(project) == "4 9 builtin_function_or_method compiled"

    # Back on the branch of before: from the cache, with the compiler's version alone asked for.
    edited.write_text(HOT.format(step=7))
    assert "translating" not in compile_(project)
    assert asked(project) == "4 7 builtin_function_or_method compiled"
    # A module that none of them depends on may change.
    (project / "src/tokenworks/charging/wire.py").write_text("")
    assert asked(project) == "4 7 builtin_function_or_method compiled"


def test_without_a_compiler_the_sources_run_and_a_line_says_so(project):
    nothing = {"CC": "/nowhere/cc", "PATH": "/nowhere"}
    script = (
        "import runpy, sys, sysconfig\n"
        "sysconfig.get_config_vars()['CC'] = '/nowhere/gcc'\n"
        f"sys.argv = ['compile', '--root', {str(project)!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    for wanted, code in (("", 0), ("1", 1)):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True,
            env=environ(project, **nothing, TOKENWORKS_COMPILE=wanted),
        )  # fmt: skip
        assert done.returncode == code and "there is no C compiler" in done.stderr, done.stderr
    assert "TOKENWORKS_COMPILE=0" in compile_(project, TOKENWORKS_COMPILE="0")
    assert asked(project).endswith("interpreted: no compiled modules are installed")


def test_sources_that_mypy_refuses_are_not_compiled_and_run_all_the_same(project):
    needs_a_compiler()
    path = project / "src/tokenworks/gateway/counter.py"
    path.write_text(HOT.format(step=2) + "\nNAME: int = 'text'\n")
    assert "mypy refuses the sources" in compile_(project) and "counter.py:15" in compile_(project)
    compile_(project, code=1, TOKENWORKS_COMPILE="1")
    assert asked(project).startswith("4 7 method interpreted")


def test_the_cache_keeps_the_latest_few(project):
    needs_a_compiler()
    script = "import importlib.util as u, json, pathlib, sys\ns = u.spec_from_file_location('c', sys.argv[1])\nm = u.module_from_spec(s)\ns.loader.exec_module(m)\n"
    script += (
        "made = pathlib.Path(sys.argv[2])\nmade.mkdir()\n"
        "for n in range(m.CACHED_MAX + 3):\n"
        "    (made / 'manifest.json').write_text(json.dumps({'n': n}))\n    m.keep(made, 'manifest.json')\n"
        "print(len(list(m.cache_folder().iterdir())) == m.CACHED_MAX)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, SCRIPT, project / "made"],
        capture_output=True,
        text=True,
        env=environ(project),
    )
    assert done.stdout == "True\n", done.stderr


def listed():
    done = subprocess.run([sys.executable, SCRIPT, "--list"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_list_names_modules_that_are_there_and_what_is_left_out_says_why():
    lines = listed()
    modules = {line for line in lines if ": left out: " not in line}
    assert {module.split(".")[1] for module in modules} == {"gateway", "charging", "factory"}
    table = tomllib.loads((ROOT / "compiled.toml").read_text())["leave"]
    reasons = {*table["containing"].values(), *table["named"].values()}
    assert {line.split(": left out: ")[1] for line in lines if ": left out: " in line} <= reasons
    assert all(len(reason.split()) > 1 for reason in reasons)


def test_what_was_asked_for_runs():
    wanted = os.environ[BUILD]
    assert compiled.state() == (
        ("compiled", "") if wanted == "1" else ("interpreted", "TOKENWORKS_COMPILE=0")
    )
    module = importlib.import_module(listed()[0])
    assert module.__file__.endswith(".py") == (wanted == "0")


def test_the_version_says_which_build_runs():
    done = subprocess.run(
        [sys.executable, "-m", "tokenworks", "--version"], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.stdout == f"tokenworks, version {compiled_version()} ({compiled.state()})\n"


def compiled_version():
    from tokenworks import __version__

    return __version__


@pytest.mark.skipif(os.environ[BUILD] != "1", reason="in the compiled build")
def test_a_wheel_carries_the_compiled_modules(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{python}-{python}-" in path.name
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "site")
    manifest = json.loads((tmp_path / "site/tokenworks/native" / compiled.TAG / "manifest.json").read_text())
    name = listed()[0]
    assert name in manifest["modules"]
    done = subprocess.run(
        [sys.executable, "-c", f"import {name} as module; from tokenworks import compiled; print(module.__file__, compiled.state())"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    file, state = done.stdout.split()
    assert state == "compiled" and file.startswith(str(tmp_path / "site")), done.stderr
