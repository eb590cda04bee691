"""Commands are thin doors: no SQL, no connection, no rule of a room, and no file beyond a length."""

import ast
import builtins
from pathlib import Path

import pytest

import tokenworks.cli

FILES = sorted(Path(tokenworks.cli.__file__).parent.glob("*.py"))
LINES_MAX = 300
# What a command may raise: that it was called wrongly. Refusals are raised by the rooms.
MAY_RAISE = {"click.UsageError", "click.MissingParameter", "KeyError"}
# Names by which SQL is run. `opening.py` makes the connection that the services of a command work on.
OF_SQL = {"connection", "cursor", "execute", "executemany", "fetchone", "fetchall", "psycopg", "sql"}
OPENS = "opening.py"
# File -> (what it raises, why it may).
RAISES = {
    "route.py": ({"NotFound"}, "the choice is explained by the command until `factory` decides for both"),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_commands_is_short(path):
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", [p for p in FILES if p.name != OPENS], ids=lambda path: path.name)
def test_a_command_knows_no_connection(path):
    found = faults_of_sql(path.read_text())
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_command_raises_no_refusal_of_a_room(path):
    allowed, _ = RAISES.get(path.name, (set(), ""))
    assert raised(path.read_text()) <= MAY_RAISE | allowed


def faults_of_sql(source):
    """Lines that name a connection or have a statement in them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name = (
            node.attr
            if isinstance(node, ast.Attribute)
            else node.id
            if isinstance(node, ast.Name)
            else node.module.partition(".")[0]
            if isinstance(node, ast.ImportFrom) and node.module
            else None
        )
        if name in OF_SQL:
            found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Import) and any(one.name.partition(".")[0] in OF_SQL for one in node.names):
            found.append(f"{node.lineno}: an import")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            if len(words) > 2 and words[0] in {
                "SELECT",
                "INSERT",
                "UPDATE",
                "DELETE",
                "WITH",
                "SET",
                "ALTER",
            }:
                found.append(f"{node.lineno}: a statement")
    return found


def raised(source):
    """What a file raises by name, and what it makes of classes that end as errors do."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func)
            if not hasattr(builtins, name) or name in {"KeyError"}:
                found.add(name)
            else:
                found.add(f"builtins.{name}")
        elif isinstance(node, ast.Raise) and node.exc is not None:
            found.add(ast.unparse(node.exc))
        elif isinstance(node, ast.ClassDef):
            found |= {f"class {node.name}" for base in node.bases if ast.unparse(base) in _ERRORS}
    return found


_ERRORS = {
    "TokenworksError",
    "Conflict",
    "Invalid",
    "NotFound",
    "Refused",
    "Unavailable",
    "Exception",
    "ValueError",
}


def test_the_tests_above_find_what_they_look_for():
    assert faults_of_sql("works.connection.execute('x')") == ["1: execute", "1: connection"]
    assert faults_of_sql("import psycopg") == ["1: an import"]
    assert faults_of_sql("from psycopg import sql") == ["1: psycopg"]
    assert faults_of_sql("x = 'SELECT count(*) FROM usage'") == ["1: a statement"]
    assert raised("raise Invalid('no')") == {"Invalid"}
    assert raised("raise subscriptions.NotEligible") == {"subscriptions.NotEligible"}
    assert raised("raise ValueError('no')") == {"builtins.ValueError"}
    assert raised("class Mine(Conflict): pass") == {"class Mine"}
    assert raised("try:\n    f()\nexcept OSError:\n    raise") == set()


def test_what_may_raise_is_there():
    assert set(RAISES) <= {path.name for path in FILES}
    assert all(why for _, why in RAISES.values())
