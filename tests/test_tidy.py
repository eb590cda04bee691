"""House rules as tests."""

import ast
import re
import subprocess
from pathlib import Path

from tests.support.unnamed import modules_of, read, unnamed

ROOT = Path(__file__).parents[1]
ROOMS = sorted(
    path for path in (ROOT / "src/tokenworks").iterdir() if path.is_dir() and path.name != "__pycache__"
)
LINES_MAX = 500
FUNCTION_LINES_MAX = 70
# What is longer still. A list may only shrink: a file or a function that is short by now, or gone, has to leave it.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
# Named by nothing still, as above.
UNNAMED: set[str] = set()

# Lines of `src` with the type `Any`, imports left out. It may only shrink.
ANY_LINES_MAX = 18

# For code outside of this repository.
# The second is called in the `__init__.py` of every room.
FOR_OTHERS = {"src/tokenworks/kernel/units.py: tokens_to_mtok", "src/tokenworks/kernel/door.py: open_door"}


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
    """A long file is a room that is not drawn yet."""
    long = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*.py")
        if len(path.read_text().splitlines()) > LINES_MAX
    }
    assert not long - LONG_FILES, f"draw another room: {sorted(long - LONG_FILES)}"
    assert not LONG_FILES - long, f"not longer than {LINES_MAX} lines any more: {sorted(LONG_FILES - long)}"


def test_functions_fit_a_screen():
    long = {
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 >= FUNCTION_LINES_MAX
    }
    assert not long - LONG_FUNCTIONS, f"cut by their ideas: {sorted(long - LONG_FUNCTIONS)}"
    assert not LONG_FUNCTIONS - long, f"short by now: {sorted(LONG_FUNCTIONS - long)}"


def test_whatever_is_defined_is_named():
    """A function, class, method or limit that nothing names does nothing."""
    found = set(unnamed(modules_of(ROOT), "src/")) - FOR_OTHERS
    assert not found - UNNAMED, f"nothing names {sorted(found - UNNAMED)}"
    assert not UNNAMED - found, f"named or gone by now: {sorted(UNNAMED - found)}"


def test_what_nothing_names_is_found():
    modules = {
        "src/a.py": read(
            "LIMIT = 1\nUSED = 2\ndef f(): return USED\ndef g(): f()\n@app.get('/')\ndef route(): ...\n"
        ),
        "src/__init__.py": read("from a import g, Kind\n", is_package=True),
        "tests/b.py": read("import a\na.patch('tokenworks.a.g')\nclass Kind: ...\n"),
    }
    assert unnamed(modules, "src/") == ["src/a.py: LIMIT"]
    modules["tests/c.py"] = read("print(a.LIMIT)\n")
    assert unnamed(modules, "src/") == []
    modules["src/d.py"] = read(
        "class Ours:\n    def one(self): ...\nclass More(Ours):\n    def two(self): self.one()\n"
        "class Theirs(asyncio.Protocol):\n    def data_received(self): ...\nuse(Ours, More, Theirs)\n"
    )
    assert unnamed(modules, "src/") == ["src/d.py: More.two"]


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


def test_any_is_rare():
    """`Any` switches the checks of types off for what it touches: what comes from outside is `object` that is narrowed."""
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "src").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\bAny\b", line) and "import" not in line
    ]
    assert len(lines) <= ANY_LINES_MAX, lines
