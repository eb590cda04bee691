"""Every SQL text of our code: read from its syntax trees, so that what no test runs is seen too.

A text is the first argument of `execute`, `executemany` or `copy`. Where it is put together (an f-string, a constant of the
module, a parameter that callers fill), each text that can come out is one of its variants.
"""

import ast
import importlib
import itertools
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

SRC = Path(__file__).parents[2] / "src"
METHODS = {"execute", "executemany", "copy", "stream"}
VARIANTS_MAX = 256
_PLACEHOLDER = re.compile(r"%(?:\((\w+)\))?[sb]|%%")


class Sql(NamedTuple):
    """One text, and the function (module.function, without `tokenworks.`) that sends it."""

    where: str
    line: int
    text: str

    @property
    def numbered(self):
        """As PostgreSQL sees it: $1 for each place, one number for each name."""
        names = {}

        def number(match):
            if match[0] == "%%":
                return "%"
            name = match[1] or f"#{len(names)}"
            return f"${names.setdefault(name, len(names) + 1)}"

        return _PLACEHOLDER.sub(number, self.text)


class Unresolved(Exception):
    """An expression whose values can't be told from the code."""


@cache
def _module(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
    name = ".".join(path.relative_to(SRC).with_suffix("").parts)
    return tree, name


@cache
def _paths():
    return [path for path in sorted((SRC / "tokenworks").rglob("*.py")) if "migrations" not in path.parts]


@cache
def _calls():
    """Calls by the name of what is called: [(path, call)]."""
    found = {}
    for path in _paths():
        for node in ast.walk(_module(path)[0]):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
                found.setdefault(name, []).append((path, node))
    return found


def _function(node):
    while not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)):
        node = node.parent
    return node


class _Choose(ast.NodeTransformer):
    """One way through the conditional expressions of an expression."""

    def __init__(self, choices):
        self._choices = iter(choices)

    def visit_IfExp(self, node):
        return self.visit(node.body if next(self._choices) else node.orelse)


def _values(path, node, depth=0):
    """What an expression can be, each value once."""
    if depth > 6:
        raise Unresolved(ast.unparse(node))
    conditionals = sum(isinstance(n, ast.IfExp) for n in ast.walk(node))
    found = []
    for choices in itertools.product((True, False), repeat=conditionals):
        # A choice within a choice that was not taken is one too many: it does no harm.
        text = ast.unparse(_Choose(itertools.chain(choices, itertools.repeat(True))).visit(_copy(node)))
        names = sorted(
            {n.id for n in ast.walk(ast.parse(text, mode="eval")) if isinstance(n, ast.Name)}
            - _bound_within(ast.parse(text, mode="eval"))
        )
        module = importlib.import_module(_module(path)[1])
        function = _function(node)
        locals_ = [name for name in names if _is_local(function, name)]
        ways = [_local(path, function, name, node, depth) for name in locals_]
        for way in itertools.product(*ways):
            try:
                value = eval(text, vars(module) | dict(zip(locals_, way, strict=True)))  # the text is ours
            except Exception as error:
                raise Unresolved(f"{path.name}:{node.lineno} {text}: {error}") from error
            if value not in found:
                found.append(value)
            if len(found) > VARIANTS_MAX:
                raise Unresolved(f"{path.name}:{node.lineno} has more than {VARIANTS_MAX} variants")
    return found


def _copy(node):
    return ast.parse(ast.unparse(node), mode="eval").body


def _bound_within(tree):
    return {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.comprehension)
        for name in ast.walk(node.target)
        if isinstance(name, ast.Name)
    }


def _is_local(function, name):
    if isinstance(function, ast.Module):
        return False
    arguments = function.args
    if any(a.arg == name for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)):
        return True
    return any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in ast.walk(function)
    )


def _local(path, function, name, at, depth):
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found += _picked(target, name, lambda n=node: _values(path, n.value, depth + 1))
        elif isinstance(node, ast.AugAssign) and getattr(node.target, "id", None) == name:
            raise Unresolved(f"{path.name}:{node.lineno} {name} grows")
        elif isinstance(node, (ast.For, ast.comprehension)):
            found += _picked(
                node.target, name, lambda n=node: [x for way in _values(path, n.iter, depth + 1) for x in way]
            )
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    keyword = [*positional, *arguments.kwonlyargs]
    if any(a.arg == name for a in keyword):
        index = next((i for i, a in enumerate(positional) if a.arg == name), None)
        method = bool(positional) and positional[0].arg == "self"
        for where, call in _calls().get(function.name, ()):
            if where != path and function.name.startswith("_"):
                continue
            given = [k.value for k in call.keywords if k.arg == name]
            if not given and index is not None and len(call.args) > index - method >= 0:
                given = [call.args[index - method]]
            for value in given:
                found += _values(where, value, depth + 1)
        defaults = dict(
            zip([a.arg for a in positional[len(positional) - len(arguments.defaults) :]], arguments.defaults, strict=True)
        ) | {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None}  # fmt: skip
        if name in defaults:
            found += _values(path, defaults[name], depth + 1)
    if not found:
        raise Unresolved(f"{path.name}:{at.lineno} {name}")
    return list({repr(value): value for value in found}.values())


def _picked(target, name, values):
    """The values of a name in an assignment's target."""
    if isinstance(target, ast.Name):
        return values() if target.id == name else []
    if isinstance(target, ast.Tuple):
        for at, one in enumerate(target.elts):
            found = _picked(one, name, lambda at=at: [value[at] for value in values()])
            if found:
                return found
    return []


@cache
def statements():
    """(every text, what could not be told: (function, reason))."""
    found, unresolved = [], []
    for path in _paths():
        tree, name = _module(path)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and getattr(node.func, "attr", None) in METHODS and node.args):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "copy":
                continue  # the module
            where = f"{name.removeprefix('tokenworks.')}.{getattr(_function(node), 'name', '')}"
            try:
                for value in _values(path, node.args[0]):
                    text = value.decode() if isinstance(value, bytes) else value
                    if isinstance(text, str):
                        found.append(Sql(where, node.lineno, text))
                    else:
                        unresolved.append((where, repr(value)[:100]))
            except Unresolved as reason:
                unresolved.append((where, str(reason)))
    return found, unresolved
