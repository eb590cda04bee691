"""Functions, classes, methods and constants that nothing names: not their own module, and no import or attribute elsewhere.

A method is found by its bare name, so one that shares its name with another class's is taken for named. Methods of a class with a base from
elsewhere may override what that base calls, and are not looked at.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

# Beside the product: what may use it.
USERS = ("src", "tests", "bench", "scripts", "examples")
# Decorators under which a function is reached by its name alone; others, such as a route's, register it.
PLAIN = {
    "contextlib.contextmanager",
    "contextlib.asynccontextmanager",
    "functools.cache",
    "functools.lru_cache",
    "cache",
}
METHODS = PLAIN | {"property", "staticmethod", "classmethod"}
# Bases from elsewhere that call no method of ours.
IDLE_BASES = {"msgspec.Struct", "NamedTuple", "Protocol", "BaseModel", "Enum", "Exception", "ValueError"}

# As an entry point, or what is patched in a test.
DOTTED = re.compile(r"[\w.]+(:\w+)?").fullmatch


class Class(NamedTuple):
    name: str
    bases: frozenset[str]
    methods: frozenset[str]


class Module(NamedTuple):
    defined: frozenset[str]
    classes: tuple[Class, ...]
    loaded: frozenset[str]
    """Names that the module itself reads."""
    named: frozenset[str]
    """Names that it imports, reads of other objects, or has as texts (a patch, an entry point)."""


def _plain(node, decorators):
    return {ast.unparse(one) for one in node.decorator_list} <= decorators


def _targets(node):
    if isinstance(node, ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name] if _plain(node, PLAIN) else []
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [one.id for one in targets if isinstance(one, ast.Name)]


def _class(node):
    methods = {
        one.name
        for one in node.body
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
        and not one.name.startswith("__")
        and _plain(one, METHODS)
    }
    bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
    return Class(node.name, frozenset(bases), frozenset(methods))


def read(text, *, is_package=False):
    """`is_package`: what it imports it only hands on."""
    tree = ast.parse(text)
    loaded, named = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loaded.add(node.id)
        elif isinstance(node, ast.Attribute):
            named.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not is_package:
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not is_package:
            if DOTTED(node.value):
                named.add(node.value.rpartition(":")[2].rpartition(".")[2])
    defined = {name for node in tree.body for name in _targets(node) if not name.startswith("__")}
    classes = tuple(_class(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return Module(frozenset(defined), classes, frozenset(loaded), frozenset(named))


def unnamed(modules: dict[str, Module], of: str) -> list[str]:
    """`path: name` of what is defined below `of` and named nowhere. `modules`: by path."""
    named = frozenset().union(*(module.named for module in modules.values()))
    bases = {one.name: one.bases for module in modules.values() for one in module.classes}
    found = []
    for path, module in modules.items():
        if path.startswith(of):
            found += [f"{path}: {name}" for name in module.defined - module.loaded - named]
            for one in module.classes:
                if _is_ours(one.bases, bases):
                    found += [f"{path}: {one.name}.{name}" for name in one.methods - named]
    return sorted(found)


def _is_ours(of, bases):
    """True if all of these bases are classes of ours, down to the last, or call no method."""
    names = {base: base.rpartition(".")[2] for base in of - IDLE_BASES}
    return all(name in bases and _is_ours(bases[name] - {base, name}, bases) for base, name in names.items())


def modules_of(root: Path) -> dict[str, Module]:
    """All that may name something, by path below `root`; migrations, which the database's history needs, only name."""
    found = {}
    for folder in USERS:
        for path in sorted((root / folder).rglob("*")):
            is_script = folder == "scripts" and path.is_file() and b"python" in path.read_bytes()[:60]
            if path.suffix == ".py" or is_script:
                module = read(path.read_text(), is_package=path.name == "__init__.py")
                if "versions" in path.parts:
                    module = module._replace(defined=frozenset(), classes=())
                found[str(path.relative_to(root))] = module
    return found
