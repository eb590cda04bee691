"""Fields for the gateway: fallback models, the wish for the cost, tags. No upstream gets the first two."""

import json

import pytest

from tokenworks.factory import Deployment
from tokenworks.factory.facts.profiles import load_profile
from tokenworks.gateway.protocol.fields import BodyError, parse_body, render
from tokenworks.gateway.protocol.fields.own import (
    FALLBACK_MODELS_MAX,
    LEFT_OUT_NAMED_MAX,
    TAG_VALUE_CHARS_MAX,
    TAGGED_BYTES_MAX,
    TAGS_BYTES_MAX,
    TAGS_MAX,
    is_tag,
    tags_of,
)

DEPLOYMENT = Deployment(
    name="d", model="m", upstream_model="m", base_url="http://192.0.2.1/v1", protocols=("chat",), allow_private=True
)  # fmt: skip


def body(compact=True, **fields):
    told = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return json.dumps(told, separators=(",", ":") if compact else (", ", ": ")).encode()


def sent(raw):
    parsed = parse_body(raw, "chat")
    out, dropped = render(parsed, raw, DEPLOYMENT, load_profile("generic"), maximum=None, usage=True)
    return parsed, json.loads(out), dropped


def raws(**fields):
    from tokenworks.gateway.protocol.fields.scan import object_decoder

    return object_decoder.decode(json.dumps(fields).encode())


@pytest.mark.parametrize("compact", [True, False])
def test_models_and_usage_are_read_and_not_sent(compact):
    raw = body(compact, models=["a", "m", "b", "a"], usage={"include": True}, route="fallback", user="u-1")
    parsed, out, dropped = sent(raw)
    assert parsed.fallbacks == ("a", "b") and parsed.wants_cost and parsed.tagged
    assert out.keys() == {"model", "messages", "user"} and dropped == parsed.dropped == ()
    assert not parsed.client_usage  # the upstream is asked for the usage of a stream as for any other request


def test_a_body_without_these_fields_is_proven_and_goes_on_as_it_is():
    raw = body()
    parsed, _, _ = sent(raw)
    assert parsed.scan is None and parsed.fallbacks is None and not (parsed.wants_cost or parsed.tagged)
    assert render(parsed, raw, DEPLOYMENT, load_profile("generic"), maximum=None, usage=True)[0] is raw


def test_a_tagged_body_is_still_proven_and_its_bytes_pass():
    raw = body(metadata={"team": "a"}, user="someone")
    parsed, _, _ = sent(raw)
    assert parsed.scan is None and parsed.tagged
    assert render(parsed, raw, DEPLOYMENT, load_profile("generic"), maximum=None, usage=True)[0] is raw


def test_the_first_of_models_is_the_model_where_none_is_named():
    raw = json.dumps({"models": ["a", "m"], "messages": []}).encode()
    parsed, out, _ = sent(raw)
    assert (parsed.model, parsed.fallbacks, out["model"]) == ("a", ("m",), "m")
    empty, _, _ = sent(body(models=[]))
    assert empty.fallbacks == ()  # no fallback, whatever key and plan say
    assert sent(body(models=None))[0].fallbacks is None


@pytest.mark.parametrize(
    "models", ["m", {"a": 1}, [1], [""], ["x" * 201], [f"m{n}" for n in range(FALLBACK_MODELS_MAX + 1)]]
)
def test_other_models_are_refused(models):
    with pytest.raises(BodyError) as refused:
        parse_body(body(models=models), "chat")
    assert (refused.value.refusal.status, refused.value.refusal.param) == (400, "models")


@pytest.mark.parametrize("usage", [None, True, [], {"include": False}, {"include": "yes"}, {"include": None}])
def test_another_value_of_usage_is_no_wish(usage):
    assert not parse_body(body(usage=usage), "chat").wants_cost


def test_embeddings_do_not_fall_back_and_say_so():
    parsed = parse_body(b'{"model":"m","input":"x","models":["a"]}', "embeddings")
    assert parsed.fallbacks is None and parsed.dropped == ("models",)


def test_tags_come_from_the_head_the_user_and_the_metadata_and_the_first_counts():
    found = tags_of(raws(user="u-1", metadata={"team": "b", "job": "nightly", "n": 7}), {"team": "a"})
    assert found.values == {"team": "a", "user": "u-1", "job": "nightly"} and found.left_out == ()
    assert tags_of(raws(metadata={"user_id": "u-2"}), {}).values == {"user": "u-2"}
    assert tags_of(raws(metadata="text", user=7), {}).values == {}


def test_tags_have_limits_and_what_is_left_out_is_named():
    many = {f"t{n}": "x" for n in range(TAGS_MAX + 3)}
    found = tags_of(raws(metadata=many), {})
    assert len(found.values) == TAGS_MAX and found.left_out == ("tag:t16", "tag:t17", "tag:t18")
    long = {f"t{n}": "x" * TAG_VALUE_CHARS_MAX for n in range(TAGS_MAX)}
    found = tags_of(raws(metadata=long), {})
    assert sum(len(name) + len(value) for name, value in found.values.items()) <= TAGS_BYTES_MAX
    assert len(found.values) + len(found.left_out) == TAGS_MAX


def test_of_very_many_tags_the_last_name_says_that_there_are_more():
    told = {f"t{n}": "x" for n in range(TAGS_MAX + LEFT_OUT_NAMED_MAX)}
    assert len(tags_of({}, told).left_out) == LEFT_OUT_NAMED_MAX
    named = tags_of({}, told | {"one": "x", "more": "x"}).left_out
    assert len(named) == LEFT_OUT_NAMED_MAX + 1 and named[-2:] == (f"tag:t{len(told) - 1}", "tag:...")


def test_a_field_that_is_too_large_to_be_read_is_named_and_has_no_tag():
    large = {"job": "nightly", "numbers": [1] * TAGGED_BYTES_MAX}
    found = tags_of(raws(metadata=large, user="u" * TAGGED_BYTES_MAX), {"team": "a"})
    assert found.values == {"team": "a"} and found.left_out == ("tag:user", "tag:metadata")


@pytest.mark.parametrize(
    ("name", "value"),
    [("a b", "x"), ("", "x"), ("a", ""), ("a", "x" * 257), ("a", "line\nline"), ("a", "nul\0"), ("é", "x"), ("x" * 65, "x"),
     ("client_request_id", "x")],
)  # fmt: skip
def test_what_is_no_tag(name, value):
    assert not is_tag(name, value)
    assert name not in tags_of({}, {name: value}).values
