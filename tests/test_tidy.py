"""House rules as tests."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = sorted(
    path for path in (ROOT / "src/tokenworks").iterdir() if path.is_dir() and path.name != "__pycache__"
)
LINES_MAX = 750


def tracked():
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = (
        done.stdout.split()
        if done.returncode == 0
        else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    )
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_every_room_has_a_readme_with_what_it_owns():
    for room in ROOMS:
        text = (room / "README.md").read_text()
        for word in ("Owns:", "Does not own:", "Invariants"):
            assert word in text, f"{room.name}/README.md does not say {word}"


def test_sql_is_in_stores_only():
    allowed = {"store.py"}
    pattern = re.compile(r'execute\(\s*f?["\']|execute\(\s*f?"""')
    for path in (ROOT / "src").rglob("*.py"):
        if path.name in allowed or path.name.endswith("_store.py") or {"app", "verify"} & set(path.parts):
            continue
        assert not pattern.search(path.read_text()), f"SQL in {path}"


def test_files_stay_readable():
    for path in (ROOT / "src").rglob("*.py"):
        count = len(path.read_text().splitlines())
        assert count <= LINES_MAX, f"{path} has {count} lines: draw another room"


def test_no_leftovers():
    leftover = re.compile(
        "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", r"breakpoint\(", r"print\(\"debug"])
    )
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".yaml"}:
            assert not leftover.search(path.read_text(errors="replace")), f"a leftover in {path}"


def test_locks_name_no_index_and_no_host():
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert "://" not in text and "index" not in text.replace("llama-index", ""), lock
        assert "--hash=sha256:" in text


def test_no_float_on_the_money_path():
    pattern = re.compile(r"\bfloat\(|/ 1e9|\* 1\.0")
    for room in ("kernel", "catalog", "charging", "subscriptions"):
        for path in (ROOT / "src/tokenworks" / room).rglob("*.py"):
            assert not pattern.search(path.read_text()), f"a float in {path}"


def test_the_changelog_names_this_version():
    from tokenworks import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
