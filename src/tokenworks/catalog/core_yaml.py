"""The core schema of YAML 1.2 (chapter 10.3) for PyYAML, which reads YAML 1.1.

So `010` is ten and not eight; `1:30`, `2026-01-01`, `1_000`, `yes`, `no`, `on` and `off` are texts. A price or a quantity does
not depend on the version of YAML that a tool reads. Tags such as `!!int` and aliases are refused.
"""

import re
from decimal import Decimal
from typing import Final

import yaml

# The maximum length of a number: more than any field takes.
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
    """A loader that gives plain scalars the tags of the core schema."""


CoreLoader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _KINDS:
    CoreLoader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"^(?:{_pattern.pattern})$"), _first)


def scalar(node: yaml.ScalarNode) -> str | int | bool | Decimal | None:
    """The value of a scalar; a number with a fraction is a `Decimal`. Raises `ValueError` with the reason."""
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind == "str":
        return text
    pattern = next((pattern for name, pattern, _ in _KINDS if name == kind), None)
    # A quoted scalar is a text, unless it has a tag.
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
