"""The walks of `docs/ARCHITECTURE.md`: each stay exists, each leads to the next one, and a room is entered by its door alone.

A walk is a numbered list. A stay is `module: function`, the module without `tokenworks.`, the function with its class where the
module has several of that name. An item below another one is a call that returns. "by `name`" in a stay's text names what hands
control on where it is no call: a frame, a table, a callback.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src/tokenworks"
DOCUMENT = ROOT / "docs/ARCHITECTURE.md"
ERRANDS = (
    "A body to the upstream",
    "A record to settlement",
    "An order to a bucket",
    "A bill to its PDF",
    "A deployment to the worker",
    "A key from creation to revocation",
    "A setting to its process",
    "A refusal to the client",
)
# These rooms export nothing: each is the top of its process. A command is a door of `cli`, a route one of `api` and `pages`, and a
# public function of a module one of `app`, which wires the rooms below it.
DOORLESS = {"app", "cli"}
_STAY = re.compile(
    r"^(?P<indent> *)(?:(?P<number>\d+)\.|-) `(?P<module>[a-z_.0-9]+): (?P<name>\w+(?:\.\w+)?)`(?P<text>.*)$"
)
_BY = re.compile(r"\bby `(\w+)`")


class Stay(NamedTuple):
    line: str
    depth: int
    number: int | None
    module: str
    name: str
    by: tuple[str, ...]

    @property
    def room(self):
        return self.module.partition(".")[0]

    @property
    def function(self):
        """The function's name without its class and without the underscore of a private one."""
        return self.name.rpartition(".")[2].strip("_")


def read_stays(text):
    """The stays of one walk, in their order. Every item of the list has to be one."""
    found = []
    for line in text.splitlines():
        if not re.match(r" *(\d+\.|-) ", line):
            continue
        match = _STAY.match(line)
        assert match, f"not a stay (`module: function` …): {line}"
        number = None if match["number"] is None else int(match["number"])
        depth = len(match["indent"]) // 3
        found.append(
            Stay(line, depth, number, match["module"], match["name"], tuple(_BY.findall(match["text"])))
        )
    return found


@cache
def walks():
    section = DOCUMENT.read_text().partition("\n## Walks\n")[2].partition("\n## ")[0]
    parts = re.split(r"^### (.+)\n", section, flags=re.MULTILINE)[1:]
    return {title: read_stays(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}


# What the syntax tree says of a module.


@cache
def tree_of(module):
    path = SRC / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.exists(), f"there is no module {module}"
    return ast.parse(path.read_text())


@cache
def functions_of(module):
    """(class or None, name, node) of all functions of a module, those inside of functions too."""
    found = []

    def visit(node, owner):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, child.name)
            else:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.append((owner, child.name, child))
                visit(child, owner)

    visit(tree_of(module), None)
    return found


def definition(stay):
    """(class or None, node) of a stay's function. A name that several classes of the module have needs its class."""
    owner, _, name = stay.name.rpartition(".")
    found = [
        (of, node) for of, known, node in functions_of(stay.module) if known == name and owner in {"", of}
    ]
    if not owner and len(found) > 1:
        # A function of the module itself comes before methods of the same name.
        found = [(of, node) for of, node in found if of is None] or found
    assert found, f"{stay.module} has no function {stay.name}: {stay.line}"
    assert len(found) == 1, f"{stay.module} has several functions {stay.name}, say whose: {stay.line}"
    return found[0]


def names_in(node):
    """Identifiers of a piece of code, and words of its texts (tables in SQL)."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.arg | ast.keyword) and part.arg:
            found.add(part.arg)
        elif isinstance(part, ast.ClassDef):
            found.add(part.name)
        elif isinstance(part, ast.alias):
            found.add(part.name.rpartition(".")[2])
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            found |= set(re.findall(r"\w+", part.value))
    return found


def called_in(node, module):
    """Names of what a piece of code calls, or hands on to be called: attributes, what is called, and functions of the module."""
    own = {name for _, name, _ in functions_of(module)}
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            found.add(part.func.id)
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in own:
            found.add(part.id)
    return found


@cache
def reach(stay):
    """Names of what a stay's function calls, and of what the functions of its module call that it leads to."""
    names, todo, seen = set(), [definition(stay)[1]], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        names |= called_in(node, stay.module)
        todo += [
            inner
            for owner, name, inner in functions_of(stay.module)
            if name in names or (name == "__init__" and owner in names)
        ]
    return names


def was_handed_out(stay, before):
    """True if an earlier stay of the same room names the function: it hands it out as a callback."""
    ours = [earlier for earlier in before if earlier.room == stay.room]
    return any(stay.function in {name.strip("_") for name in reach(earlier)} for earlier in ours)


def leads_to(stay, following, before):
    """True if a stay names the next one's function (or its class, where that is made), or what its text says: a name that both
    modules have, or that of a callback which `before` handed out.
    """
    owner, _ = definition(following)
    names = reach(stay)
    if following.name.endswith("__init__"):
        named = owner in names
    else:
        named = following.function in {name.strip("_") for name in names}
    ours, theirs = names_in(tree_of(stay.module)), names_in(tree_of(following.module))
    handed = was_handed_out(following, before)
    return named or any(name in ours and (name in theirs or handed) for name in stay.by)


# Doors.


@cache
def exports_of(room):
    path = SRC / room / "__init__.pyi"
    path = path if path.exists() else SRC / room / "__init__.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@cache
def classes_of(room):
    return [
        node
        for path in (SRC / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]


@cache
def open_classes(room):
    """What a room exports, what that inherits from, and the parts that it makes or is handed."""
    found = set(exports_of(room))
    for node in classes_of(room):
        if node.name in exports_of(room):
            found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return found


def is_route(node):
    """True for a route of an API or a page, and for a command: other systems and people enter there."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and called.attr in {
            "get",
            "post",
            "put",
            "patch",
            "delete",
            "command",
        }:
            return True
    return False


def is_callback(stay, before):
    """True if the stay's room handed the function out: an earlier stay names it, or its module passes the method by keyword."""
    return was_handed_out(stay, before) or any(
        isinstance(node, ast.keyword)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == stay.name.rpartition(".")[2]
        for node in ast.walk(tree_of(stay.module))
    )


def is_door(stay, before):
    owner, node = definition(stay)
    public = not stay.name.rpartition(".")[2].startswith("_") or stay.name.endswith("__init__")
    if is_route(node) or is_callback(stay, before):
        return True
    if stay.room in DOORLESS:
        return public
    if stay.room == "web":
        # A door itself, below the two others: its modules are what it exports.
        return public
    return public and (owner or stay.name) in (
        exports_of(stay.room) | (open_classes(stay.room) if owner else set())
    )


def check(stays):
    """Raises `AssertionError` with the stay that is wrong."""
    assert stays
    callers: list[Stay] = []
    for at, stay in enumerate(stays):
        definition(stay)
        while callers and callers[-1].depth > stay.depth:
            callers.pop()
        before = callers[-1] if callers else None
        if before is not None and before.depth == stay.depth:
            callers.pop()
            if stay.number is None:
                # One of several calls of the same caller.
                before = callers[-1]
        begins = stay.depth == 0 and stay.number == 1
        if before is not None and not begins:
            assert stay.number is None or stay.number == before.number + 1, f"numbers: {stay.line}"
            assert leads_to(before, stay, stays[:at]), (
                f"{before.module}: {before.name} does not lead to {stay.line}"
            )
        # A list begins where a client, a person or a clock begins something: in a room that was left, by its door.
        if stay.room in {earlier.room for earlier in stays[:at]} if begins else before.room != stay.room:
            assert is_door(stay, stays[:at]), f"not by the door of {stay.room}: {stay.line}"
        callers.append(stay)


def test_there_is_a_walk_for_each_errand():
    assert tuple(walks()) == ERRANDS


@pytest.mark.parametrize("errand", ERRANDS)
def test_a_walk_is_as_the_code_is(errand):
    check(walks()[errand])


def test_names_of_a_star_are_none():
    assert names_in(ast.parse("f(**options)")) == {"f", "options"}


def walk(*lines):
    return read_stays("\n".join(lines))


GOOD = (
    "1. `api.tmf.orders: place` asks.",
    "2. `subscriptions.orders.service: place` orders.",
    "3. `subscriptions.orders.place: order` makes it.",
    "   - `subscriptions.orders.order_store: add_order` keeps it.",
)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("1. An order comes in.",), "not a stay"),
        (("1. `api.tmf.order: place` asks.",), "no module"),
        (("1. `api.tmf.orders: replace` asks.",), "no function"),
        ((GOOD[0], "2. `subscriptions.orders.service: resume` resumes."), "does not lead to"),
        ((GOOD[0], "3. `subscriptions.orders.service: place` orders."), "numbers"),
        ((GOOD[0], "2. `subscriptions.orders.order_book: find_order` finds it."), "does not lead to"),
        (
            (
                "1. `api.tmf.orders: place` by `Order`.",
                "2. `subscriptions.orders.place: order` makes it.",
            ),
            "not by the door",
        ),
        ((*GOOD, "   - `subscriptions.orders.sales: change` is another."), "does not lead to"),
        (("1. `gateway.request.record: __init__` is one of two.",), "several functions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(lines, said):
    check(walk(*GOOD))
    with pytest.raises(AssertionError, match=said):
        check(walk(*lines))
