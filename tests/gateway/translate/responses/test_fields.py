"""The table of docs/TRANSLATION.md has each field that the allow-list has, and what it says of some of them is true."""

from pathlib import Path

import pytest
import yaml

from tokenworks.gateway.protocol.fields import lists_of
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.form import Request, Text, Turn, Untranslatable
from tokenworks.gateway.translate.responses import codec

FILE = Path(codec.__class__.__module__.replace(".", "/")).parent / "fields.yaml"
TABLE = yaml.safe_load((Path(__file__).parents[4] / "src" / FILE).read_text())
READS, WRITES = TABLE["reads"], TABLE["writes"]
KINDS = {"carried", "approximated", "refused", "dropped"}


def kind(entry):
    return entry if isinstance(entry, str) else next(iter(entry))


def test_every_field_of_the_allow_list_has_a_row():
    lists = lists_of("responses")
    for name, level in lists.levels.items():
        fields = {field for field, rule in level.rules.items() if rule.base}
        assert fields == set(READS[name]), f"{name}: {fields ^ set(READS[name])}"
    for name in ("item", "part", "tool"):
        types = {
            kind for kind, rule in lists.levels[name].types.items() if rule.base and rule.action != "hosted"
        }
        assert types == set(READS[f"{name} types"])


def test_each_row_has_one_kind():
    for entry in [entry for level in READS.values() for entry in level.values()] + list(WRITES.values()):
        assert kind(entry) in KINDS and (isinstance(entry, str) or len(entry) == 1)


# A value for each field of the body that asks for something.
VALUES = {
    "access_programs": {"a": 1}, "background": True, "background_options": {"a": 1}, "context_management": [{"type": "compaction"}],
    "conversation": "c", "image": {"context_compression": "auto"}, "max_tool_calls": 1, "moderation": {"model": "m"},
    "previous_response_id": "r", "prompt": {"id": "p"}, "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "in_memory", "store": True, "top_logprobs": 2, "truncation": "auto",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name, entry in READS["body"].items() if kind(entry) in {"dropped", "refused"}]
)
def test_what_the_table_calls_dropped_is_named_and_what_it_calls_refused_is_refused(name):
    body = {"model": "m", "input": "hi", name: VALUES[name]}
    if kind(READS["body"][name]) == "refused":
        with pytest.raises(Untranslatable) as refused:
            codec.read_request(body)
        assert refused.value.param == name
    else:
        assert codec.read_request(body)[1] == (name,)


@pytest.mark.parametrize(
    "name", [name for name in Request.__struct_fields__ if kind(WRITES.get(name, "carried")) == "dropped"]
)
def test_what_responses_do_not_have_is_named(name):
    values = {"stop": ("x",)}
    request = Request("m", (Turn("user", (Text("hi"),)),), **{name: values.get(name, 1)})
    assert codec.write_request(request, Target())[1] == (name,)


def test_every_field_of_a_request_has_a_row():
    nested = {"model", "turns", "reasoning", "stream_usage"}
    assert set(Request.__struct_fields__) - nested <= set(WRITES)
