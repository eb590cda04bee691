"""The lists hold every field of the official clients' request types, at every level that they type."""

import typing
from typing import get_args, get_origin, get_type_hints

import anthropic.types
import anthropic.types.beta
import openai.types
import pytest
from anthropic.types import message_create_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from tokenworks.gateway.protocol.fields import lists_of

REQUESTS = [
    ("chat", chat_create_params.CompletionCreateParamsBase), ("chat", chat_create_params.CompletionCreateParamsStreaming), ("completions", completion_create_params.CompletionCreateParamsBase),
    ("embeddings", embedding_create_params.EmbeddingCreateParams), ("responses", response_create_params.ResponseCreateParamsBase),
    ("responses", response_create_params.ResponseCreateParamsStreaming), ("messages", message_create_params.MessageCreateParamsBase),
    ("messages", message_create_params.MessageCreateParamsStreaming), ("messages", beta_create_params.MessageCreateParamsBase),
]  # fmt: skip


def typed_dicts(annotation):
    """Every TypedDict that a value of this type may be, or hold."""
    if isinstance(annotation, type) and hasattr(annotation, "__required_keys__"):
        return [annotation]
    inner = getattr(annotation, "__value__", None)
    args = (inner,) if inner is not None else get_args(annotation)
    if get_origin(annotation) is typing.Literal:
        return []
    return [
        found
        for arg in args
        if not isinstance(arg, (str, int, bool, type(None)))
        for found in typed_dicts(arg)
    ]


def literals(annotation):
    if get_origin(annotation) is typing.Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    return [
        value
        for arg in get_args(annotation)
        if not isinstance(arg, (str, int, bool, type(None)))
        for value in literals(arg)
    ]


def missing(lists, level, typed_dict, path, seen):
    """Fields and types of a TypedDict and of all inside it that no list names; typed values that a list takes for opaque."""
    if (level.name, typed_dict) in seen:
        return
    seen.add((level.name, typed_dict))
    hints = get_type_hints(typed_dict)
    types = literals(hints["type"]) if "type" in hints else []
    if level.typed:
        for kind in types:
            if level.type_rule(kind) is None:
                yield f"{path}: type {kind}"
    for name, annotation in hints.items():
        rule = level.rules.get(name)
        here = f"{path}.{name}"
        if rule is None or not rule.base:
            yield here
            continue
        below = typed_dicts(annotation)
        if not below or rule.action in {"drop", "refuse"} or rule.kind in {"opaque", "tags"}:
            continue
        if rule.kind == "values":
            continue
        if not rule.level:
            yield f"{here} is typed by the client and {rule.action} here"
            continue
        for inner in below:
            yield from missing(lists, lists.levels[rule.level], inner, here, seen)


@pytest.mark.parametrize(("protocol", "request_type"), REQUESTS)
def test_every_field_of_the_official_clients_is_listed(protocol, request_type):
    lists = lists_of(protocol)
    assert sorted(set(missing(lists, lists.body, request_type, protocol, set()))) == []


def test_a_field_that_no_list_names_is_found():
    class New(typing.TypedDict):
        model: str
        messages: list[dict[str, str]]
        teleport: bool

    lists = lists_of("chat")
    assert list(missing(lists, lists.body, New, "chat", set())) == ["chat.teleport"]


def test_opaque_values_say_why():
    for protocol in ("chat", "completions", "embeddings", "messages", "responses"):
        for level in lists_of(protocol).levels.values():
            for name, rule in level.rules.items():
                if rule.kind in {"opaque", "values"} or rule.action in {"drop", "refuse"}:
                    assert rule.why, (protocol, level.name, name)


def test_the_lists_name_the_clients_they_were_made_from():
    from importlib.resources import files

    for protocol in ("chat", "completions", "embeddings", "responses"):
        assert (
            f"openai {openai.__version__} "
            in files("tokenworks.gateway.protocol.fields").joinpath(f"{protocol}.yaml").read_text()
        )
    assert (
        f"anthropic {anthropic.__version__} "
        in files("tokenworks.gateway.protocol.fields").joinpath("messages.yaml").read_text()
    )
