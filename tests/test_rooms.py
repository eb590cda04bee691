"""SQL, connections and business errors are in their rooms: doors and wiring have none of the three.

The tests read the syntax trees, so they also cover code that no test runs.
"""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src/tokenworks"
DOORS = ("web", "api", "pages")
ROOMS = ("trust", "catalog", "factory", "charging", "subscriptions", "billing", "gateway")
# Limits for modules and functions of a door: a longer one probably has a rule in it.
LINES_MAX, FUNCTION_LINES_MAX = 300, 70
# Calls that send SQL.
SENDS = {"execute", "executemany", "executescript", "copy", "stream"}
SQL = re.compile(
    r"^\s*(SELECT\s.+\sFROM\s|SELECT\s+\w+\(|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s*\()",
    re.IGNORECASE | re.DOTALL,
)
# Modules outside of stores that have SQL, with the reason.
WITH_SQL = {
    "app/database/backup.py": "a copy of the whole cluster: replication slots and sizes, no table of a room",
    "app/process/jobs.py": "the advisory lock by which one host runs the jobs",
    "app/database/connections.py": "what a session is set to, and asks a cluster about itself",
    "app/migrations": "the schema",
    "app/process/recall_listener.py": "LISTEN on its own session",
    "app/database/recovery.py": "asks whether the cluster is in recovery",
    "app/database/roles.py": "roles and rights",
    "app/database/schema.py": "the schema's steps, indexes and backfills",
    "app/database/sealing.py": "a backfill of the schema, over columns that no service reads any more",
    "app/sealed.py": "reads how far that backfill is",
    "app/verifier.py": "the auditor's session: its snapshot is one for all rooms",
    "app/process/starting.py": "asks each node of the database how durable a commit is",
    "app/database/waiting.py": "what a session waits for, and for how long",
    "app/verify_worker.py": "the session of one of the auditor's processes",
    "charging/ledger/verify": "the auditor, which reads all tables",
}
# Modules that use the connection of the services; doors use `Services.transaction`.
WITH_CONNECTION = {
    "app/process/jobs.py": "jobs that belong to the schema and to chains, which are no room's service",
    "app/demo/proof.py": "the auditor of the demo, and services at a later time",
    "app/process/host_secrets.py": "hosts and their secrets, in the recorder's process",
    "app/database/restore.py": "the auditor after a restore",
}
# Errors of a room that other modules raise, with the reason.
RAISES = {
    ("web/client.py", "NotAllowed"): "a page of another site: a rule of HTTP",
    ("web/staff_door.py", "NotAllowed"): "a route declares the roles that may have it",
    ("web/staff_door.py", "NotSignedIn"): "the credential is read from headers and cookies",
    ("web/principals.py", "NotAllowed"): "a route declares the roles that may call it: x-roles",
    ("web/principals.py", "NotSignedIn"): "the principal is read from headers and cookies",
    ("pages/page.py", "NotAllowed"): "a page declares the roles that may see it",
    ("app/ports/oidc.py", "OidcRefused"): "the status with which the provider refuses a code",
    ("app/calibration.py", "TraceFaulty"): "a trace that the command reads from an engine",
    (
        "app/process/change_feed.py",
        "LedgerWentBack",
    ): "ends the process that compares the ledger with its journal",
}


def modules(*folders):
    """(path from the root of the package, tree) of every module, but for those of commands, which have a test of their own."""
    for folder in folders or (".",):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not re.match(r"app/cli[_.]|cli/", name):
                yield name, ast.parse(path.read_text())


def allowed(name, reasons):
    return next((entry for entry in reasons if name == entry or name.startswith(f"{entry}/")), None)


def is_store(name):
    return name.endswith(("/store.py", "_store.py"))


def docstrings(tree):
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def sql_in(tree):
    """Lines that send SQL or write it down."""
    said = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDS:
            first = node.args[0] if node.args else None
            text = (
                first.func.value
                if isinstance(first, ast.Call) and isinstance(first.func, ast.Attribute)
                else first
            )
            if isinstance(text, ast.Constant | ast.JoinedStr) or node.func.attr in {"execute", "executemany"}:
                yield node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            if SQL.match(node.value):
                yield node.lineno


def errors_in(tree):
    """(line, name) of errors that are made, or raised as they are, and are another room's."""
    kinds = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "tokenworks" and len(parts) > 1 and parts[1] in ROOMS:
                room = importlib.import_module(node.module)
                for alias in node.names:
                    found = getattr(room, alias.name, None)
                    if isinstance(found, type) and issubclass(found, Exception):
                        kinds.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        made = node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
        if isinstance(made, ast.Name) and made.id in kinds:
            yield node.lineno, made.id


def test_sql_stands_in_stores():
    used = set()
    for name, tree in modules():
        if is_store(name):
            continue
        entry, lines = allowed(name, WITH_SQL), list(sql_in(tree))
        assert entry or not lines, f"SQL in {name}, lines {lines}: put it into a store of its room"
        used |= {entry} if lines else set()
    assert used == set(WITH_SQL), f"no SQL there any more: {set(WITH_SQL) - used}"


def test_every_store_is_looked_at():
    """What the test above leaves out has SQL, each of it."""
    stores = [(name, tree) for name, tree in modules() if is_store(name)]
    assert len(stores) > 40
    for name, tree in stores:
        assert any(True for _ in sql_in(tree)), f"{name} has no SQL: it is no store"


def connections_in(tree, *, of_services):
    """Lines that take a connection: any, or (`of_services`) the one that the services are on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"connection", "cursor"}:
            owner = ast.unparse(node.value).rpartition(".")[2].removeprefix("_")
            if not of_services or owner == "services":
                yield node.lineno


def test_doors_have_no_connection():
    for name, tree in modules(*DOORS):
        lines = list(connections_in(tree, of_services=False))
        assert not lines, f"a connection in {name}, lines {lines}: ask a service, or rooms.transaction()"


def test_the_wiring_uses_no_rooms_connection():
    used = set()
    for name, tree in modules("app"):
        lines = list(connections_in(tree, of_services=True))
        assert name in WITH_CONNECTION or not lines, f"a room's connection in {name}, lines {lines}"
        used |= {name} if lines else set()
    assert used == set(WITH_CONNECTION), f"no connection there any more: {set(WITH_CONNECTION) - used}"


def test_errors_of_a_room_are_raised_in_it():
    used = set()
    for name, tree in modules(*DOORS, "app"):
        for line, kind in errors_in(tree):
            assert (name, kind) in RAISES, f"{name}:{line} raises {kind}: the rule is its room's"
            used.add((name, kind))
    assert used == set(RAISES), f"not raised there any more: {set(RAISES) - used}"


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_thin(door):
    for name, tree in modules(door):
        count = len((ROOT / name).read_text().splitlines())
        assert count <= LINES_MAX, f"{name} has {count} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= FUNCTION_LINES_MAX, f"{name}: {node.name} has {lines} lines"


def test_what_is_looked_for_is_found():
    """The finders themselves: a test that finds nothing anywhere would pass."""
    found = ast.parse(
        "from tokenworks.billing import BillSettled\n"
        "def f(rooms):\n"
        '    """SELECT * FROM nothing"""\n'
        '    rooms.thing.execute("SELECT 1")\n'
        '    text = f"x"; query = "UPDATE bill SET x = 1"\n'
        '    raise BillSettled("no")\n'
    )
    assert sorted(set(sql_in(found))) == [4, 5]
    assert list(errors_in(found)) == [(6, "BillSettled")]
    assert not list(sql_in(ast.parse('def f():\n    """SELECT a FROM b"""\n    say("Select a plan")\n')))
