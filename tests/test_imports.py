"""No circle of imports: neither when modules are loaded, nor for types alone, nor inside functions."""

import ast
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"

# Circles that are still there, each with what it would take to open it. The list may only become shorter.
CIRCLES: dict[frozenset[str], str] = {
    frozenset(
        {"tokenworks.cli.base", "tokenworks.cli.opening"}
    ): "help opens nothing: what opens is imported in a function",
    frozenset(
        {"tokenworks.app.verifier", "tokenworks.app.verify_pool", "tokenworks.app.verify_worker"}
    ): "a process of the auditor asks, inside a function, for the checks that its leader has",
    frozenset(
        {"tokenworks.app.database.places", "tokenworks.app.database.s3"}
    ): "a place makes its S3 client inside a function",
    frozenset(
        {"tokenworks.subscriptions.hub.service", "tokenworks.subscriptions.hub.hub_store"}
    ): "a row is read as a `Listener`",
    frozenset(
        {"tokenworks.trust.identity.approval_store", "tokenworks.trust.identity.approvals"}
    ): "a row is read as an `Approval`",
}


def modules(src):
    return {
        ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__"): path
        for path in src.rglob("*.py")
    }


def imported(name, path, known):
    """The modules that one imports, wherever in it; a name that a package exports counts as the package's."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found |= {whole} if whole in known else {base} & known
    return found - {name}


def circles(graph):
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(start):
        work = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    work.append((target, iter(sorted(graph[target]))))
                    break
                if target in stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = set()
                    while node not in component:
                        component.add(stack.pop())
                    if len(component) > 1:
                        found.append(frozenset(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return set(found)


def circles_of(src):
    paths = modules(src)
    return circles({name: imported(name, path, set(paths)) for name, path in paths.items()})


def test_no_module_imports_what_imports_it():
    found = circles_of(SRC)
    assert not [sorted(circle) for circle in found - set(CIRCLES)]
    assert not [sorted(circle) for circle in set(CIRCLES) - found], "opened: take it off the list"


def test_a_circle_is_found_wherever_the_import_stands(tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text("from room.a import A\n")
    (room / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.b import B\n"
    )
    (room / "b.py").write_text("def f():\n    from room import c\n")
    (room / "c.py").write_text("from .a import A\n")
    (room / "d.py").write_text("import room.a\n")
    assert circles_of(tmp_path) == {frozenset({"room.a", "room.b", "room.c"})}
    (room / "b.py").write_text("from room.d import A\n")
    assert circles_of(tmp_path) == {frozenset({"room.a", "room.b", "room.d"})}
    (room / "b.py").write_text("import os\n")
    assert circles_of(tmp_path) == set()
