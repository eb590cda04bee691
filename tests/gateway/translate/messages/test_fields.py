"""The table of docs/TRANSLATION.md names every field that a request of messages may have, and what it says is so."""

from importlib.resources import files

import pytest
import yaml

from tests.gateway.translate.messages.support import body
from tokenworks.gateway.protocol.fields.lists import lists_of
from tokenworks.gateway.translate.form import Untranslatable
from tokenworks.gateway.translate.messages import codec
from tokenworks.gateway.translate.messages.writer import BUFFERED_BYTES_MAX

TABLE = yaml.safe_load(
    (files("tokenworks.gateway.translate.messages") / "fields.yaml").read_text(encoding="utf-8")
)
KINDS = {"carried", "approximated", "refused", "dropped"}
LEVELS = {
    name: {field for field, rule in level.rules.items() if rule.base}
    for name, level in lists_of("messages").levels.items()
}
# Where a level stands in a body, with one field of it.
BELOW = {
    "body": lambda name: {name: {"x": 1}},
    "message": lambda name: {"messages": [{"role": "user", "content": "hi", name: {"x": 1}}]},
    "block": lambda name: {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", name: {"x": 1}}]}]},
    "tool": lambda name: {"tools": [{"name": "f", "input_schema": {}, name: {"x": 1}}]},
    "thinking": lambda name: {"thinking": {"type": "adaptive", name: {"x": 1}}},
    "output_config": lambda name: {"output_config": {name: {"x": 1}}},
}  # fmt: skip
PREFIXES = {"body": "", "message": "messages.", "block": "messages.content.", "tool": "tools."}


def kind_of(entry):
    return entry if isinstance(entry, str) else next(iter(entry))


@pytest.mark.parametrize("level", sorted(name for name, fields in LEVELS.items() if fields))
def test_the_table_has_the_fields_of_the_allow_list(level):
    assert TABLE["reads"].get(level, {}).keys() == LEVELS[level]


def test_every_entry_is_of_a_kind_and_says_how():
    entries = [entry for fields in TABLE["reads"].values() for entry in fields.values()]
    for entry in [*entries, *TABLE["writes"].values()]:
        assert kind_of(entry) in KINDS
        assert isinstance(entry, str) or (len(entry) == 1 and isinstance(entry[kind_of(entry)], str))
        assert isinstance(entry, dict) or entry == "carried"


@pytest.mark.parametrize("level", sorted(BELOW))
def test_what_the_table_says_is_dropped_is_named(level):
    named = 0
    for name, entry in TABLE["reads"][level].items():
        try:
            _, dropped = codec.read_request(body(**BELOW[level](name)))
        except Untranslatable:
            assert kind_of(entry) != "dropped"
            continue
        known = kind_of(entry) != "dropped" and entry != {"refused": "by the allow-list"}
        path = PREFIXES.get(level, f"{level}.") + name
        if not known:
            named += 1
            assert path in dropped
    assert named


def test_the_table_tells_the_bound_of_what_waits():
    assert f"up to {BUFFERED_BYTES_MAX // 1024**2} MiB" in TABLE["writes"]["events"]["approximated"]
