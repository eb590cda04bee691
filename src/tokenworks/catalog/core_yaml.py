"""YAML as its version 1.2 reads it (the core schema, chapter 10.3), for PyYAML, which reads version 1.1.

So `010` is ten and not eight, `1:30` and `2026-01-01` and `1_000` are texts, and so are `yes`, `no`, `on` and `off`: what a price or
a quantity is does not hang on which of the two a tool knows. A tag such as `!!int` is refused, and so are aliases.
"""

import re
from decimal import Decimal
from typing import Any, Final

import yaml

# More digits than any field takes.
NUMBER_CHARS_MAX: Final = 100
_KINDS: Final = (
    ("null", re.compile(r"~|null|Null|NULL|"), [*"~nN", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), [*"tTfF"]),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), [*"-+0123456789"]),
    (
        "float",
        re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
        [*"-+.0123456789"],
    ),
)  # fmt: skip
_TAG: Final = "tag:yaml.org,2002:"


class CoreLoader(yaml.SafeLoader):
    """Composes nodes whose plain scalars have the core schema's tags."""


CoreLoader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _KINDS:
    CoreLoader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"^(?:{_pattern.pattern})$"), _first)


def scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar; a number with a fraction is a `Decimal`. Raises `ValueError` with what is wrong."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "str":
        return text
    pattern = next((pattern for name, pattern, _ in _KINDS if name == kind), None)
    # What is quoted is a text, unless a tag says something else.
    if pattern is None or node.style is not None or not pattern.fullmatch(text):
        raise ValueError(f"a tag ({node.tag[:40]}) is not taken here")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if len(text) > NUMBER_CHARS_MAX:
        raise ValueError(f"a number has at most {NUMBER_CHARS_MAX} digits")
    if kind == "int":
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if "n" in text.lower():
        raise ValueError(f"a number is finite, not {text}")
    return Decimal(text)
