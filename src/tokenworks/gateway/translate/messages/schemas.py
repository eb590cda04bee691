"""JSON Schemas as the provider of messages takes them: of a tool's input, and of an answer whose shape it enforces."""

from typing import Final

import msgspec

from tokenworks.gateway.translate.form import JsonObject
from tokenworks.gateway.translate.messages.values import int_of, text_of

_encode: Final = msgspec.json.encode
_VARIANTS: Final = ("anyOf", "oneOf", "allOf")
DEPTH_MAX: Final = 64
# What the provider enforces (anthropic 2.12.0, `lib/_parse/_transform.py`); the rest of a schema becomes a part of its description.
_FORMATS: Final = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
})  # fmt: skip
_KEPT: Final = frozenset({"$ref", "type", "enum", "const", "title", "description", "required"})
_NESTED: Final = frozenset({"$defs", "properties", "items", *_VARIANTS})
_SILENT: Final = frozenset({"additionalProperties", "$schema", "default"})


def input_schema(parameters: JsonObject | None) -> JsonObject:
    """The schema of a tool's input. Its type is an object, and it has no variants at its top: the properties of all variants are joined."""
    if parameters is None:
        return {"type": "object", "properties": {}}
    schema = {name: value for name, value in parameters.items() if name not in _VARIANTS}
    joined: JsonObject = {}
    for name in _VARIANTS:
        variants = parameters.get(name)
        for variant in variants if isinstance(variants, list) else ():
            properties = variant.get("properties") if isinstance(variant, dict) else None
            if isinstance(properties, dict):
                joined.update(properties)
    own = schema.get("properties")
    if joined or not isinstance(own, dict):
        schema["properties"] = joined | (own if isinstance(own, dict) else {})
    schema["type"] = "object"
    return schema


def enforced_schema(schema: JsonObject) -> JsonObject:
    """The schema of an answer, with what the provider does not enforce as words in the descriptions. Objects have no other properties."""
    return _enforced(schema, 0)


def _enforced(schema: JsonObject, depth: int) -> JsonObject:
    out: JsonObject = {}
    words: list[str] = []
    for name, value in schema.items():
        if name in _NESTED:
            out[name] = _nested(name, value, depth)
        elif (
            name in _KEPT
            or (name == "format" and text_of(value) in _FORMATS)
            or (name == "minItems" and int_of(value) in {0, 1})
        ):
            out[name] = value
        elif name not in _SILENT:
            words.append(f"{name}: {_encode(value).decode()}")
    if out.get("type") == "object":
        out["additionalProperties"] = False
        out.setdefault("properties", {})
    if words:
        told = out.get("description")
        rest = "{" + ", ".join(words) + "}"
        out["description"] = f"{told}\n\n{rest}" if isinstance(told, str) and told else rest
    if "oneOf" in out:
        one = out.pop("oneOf")
        out.setdefault("anyOf", one)
    return out


def _nested(name: str, value: object, depth: int) -> object:
    if depth >= DEPTH_MAX:
        return value
    if name in {"$defs", "properties"}:
        return (
            {key: _schema(item, depth) for key, item in value.items()} if isinstance(value, dict) else value
        )
    if isinstance(value, list):
        return [_schema(item, depth) for item in value]
    return _schema(value, depth)


def _schema(value: object, depth: int) -> object:
    return _enforced(value, depth + 1) if isinstance(value, dict) else value
