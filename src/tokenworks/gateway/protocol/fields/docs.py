"""Writes docs/FIELDS.md from the lists: `python -m tokenworks.gateway.protocol.fields.docs > docs/FIELDS.md`. A test fails if the file
differs.
"""

from collections.abc import Iterator
from typing import Final

from tokenworks.factory.facts.profiles import load_profile, profile_names
from tokenworks.gateway.protocol.fields.lists import (
    DATA,
    DROP,
    LINK,
    NESTED,
    OBJECT_ID,
    OWN,
    PRICE,
    PROTOCOLS,
    REFUSE,
    TAGS,
    TRANSLATE,
    VALUES,
    Level,
    Rule,
    lists_of,
    never_names,
)

# The changes to a body: (field, condition, change). All other bytes are the client's.
CHANGES: Final = (
    ("`model`", "the deployment has another name for the model", "replaced by the deployment's `upstream_model`"),
    ("the output maximum", "a maximum has to be sent, is lowered to the tokens held, or is in a field that the deployment does not read",
     "written into the deployment's field (`--max-tokens-field`, else the profile's, else the client's); its other names are removed"),
    ("the output maximum", "the client wrote `100.0`", "written as `100`"),
    ("the output maximum", "0 or -1 in `chat` and `responses`, with which clients mean no maximum", "removed and named"),
    ("the output maximum", "two fields with different maxima", "the smaller one stays, the other is removed and named; of two that are equal one stays"),
    ("`stream_options`", "a stream of `chat` or `completions` whose usage has to be known",
     "`include_usage` is set beside the client's own options, and `continuous_usage_stats` where the profile says `continuous`"),
    ("`stream_options`", "`--no-stream-options`", "removed and named"),
    ("a field that the vendor refuses", "the profile names it (`refused`, see [VENDORS.md](VENDORS.md))", "removed and named"),
    ("`service_tier: flex`", "always: it is a value for this gateway only", "removed"),
    ("a name or a `type` that no list has", "the deployment does not have `--pass-unknown`, or the name never passes", "removed and named"),
    ("a name that only other profiles list", "the deployment does not have `--pass-unknown`", "removed and named"),
    ("a tool that the vendor would run", "the plan says `hosted_tools: drop`", "removed and named; `tools`, `tool_choice` and `parallel_tool_calls` too if no tool is left"),
    ("an object with a name twice, or in an unusual layout", "the protocol types the object", "encoded again from its decoded fields, each name once"),
    ("a byte order mark", "always", "removed"),
)  # fmt: skip
_HEAD: Final = """# What passes in a request's body

Written from `src/tokenworks/gateway/protocol/fields/*.yaml` and `src/tokenworks/factory/vendors/*.yaml` by
`python -m tokenworks.gateway.protocol.fields.docs`; do not edit it here.

Each name at each level that a protocol types has one rule. A name on no list is removed, and named in the response header
`x-tokenworks-dropped` (ASCII, at most 1 kB, then `...`). Opaque values pass unchanged, byte by byte.

| rule | meaning |
|---|---|
| pass | passes unchanged |
| price | passes; it affects the hold or the price of the request, or it is an id or a URL that is checked |
| translate | passes in the form that the deployment understands |
| drop | removed and named |
| refuse | 400 `unpriced_field`, unless it is null |
| gateway | read by this gateway, and not sent on |
"""
_KINDS: Final = {
    OBJECT_ID: "an id of the upstream: it works only for the account that received it",
    LINK: "a URL: a public address, or inline as data:",
    DATA: "inline media: not counted as text",
    TAGS: "passes unchanged, and its texts are tags of the usage record",
}


def reference() -> str:
    """The text of docs/FIELDS.md."""
    lines = [_HEAD, "## What the gateway changes", "", "| what | when | how |", "|---|---|---|"]
    lines += [f"| {what} | {when} | {how} |" for what, when, how in CHANGES]
    for protocol in PROTOCOLS:
        lists = lists_of(protocol)
        lines += ["", f"## {protocol}", ""]
        lines += [f"Query string: {', '.join(f'`{query}`' for query in lists.query) or 'nothing'} passes."]
        for level in lists.levels.values():
            lines += ["", f"### {protocol}: {level.name}", "", *_level(level)]
    lines += [
        "",
        "## Names that never pass unless a list has them, in any spelling",
        "",
        "| name | effect at an upstream |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(never_names().items())]
    lines += ["", "## Profiles", "", *_profiles()]
    return "\n".join(lines) + "\n"


def _level(level: Level) -> Iterator[str]:
    yield "| names | rule | value | profiles |"
    yield "|---|---|---|---|"
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, rule in sorted(level.rules.items()):
        profiles = "all" if rule.base else ", ".join(sorted(rule.profiles))
        groups.setdefault((_action(rule), _value(rule), profiles), []).append(f"`{name}`")
    for (action, value, profiles), names in groups.items():
        yield f"| {', '.join(names)} | {action} | {value} | {profiles} |"
    if level.typed:
        yield ""
        yield "| types | what happens | profiles |"
        yield "|---|---|---|"
        found = [*level.types.items(), *((kind + "*", rule) for kind, rule in level.prefixes.items())]
        of_types: dict[tuple[str, str], list[str]] = {}
        for kind, type_rule in sorted(found):
            profiles = "all" if type_rule.base else ", ".join(sorted(type_rule.profiles))
            of_types.setdefault((_TYPES[type_rule.action], profiles), []).append(f"`{kind}`")
        for (what, profiles), kinds in of_types.items():
            yield f"| {', '.join(kinds)} | {what} | {profiles} |"


_TYPES: Final = {
    "pass": "passes",
    "client": "passes: the client runs it",
    "hosted": "dropped or refused, as the plan says: the vendor runs it",
    "drop": "dropped and named",
    "thought": "passes, unless a translated answer had it, which this provider could not read",
    "carried": "passes with content; with an id only it is dropped, and the ids of other items are dropped, too",
    "summary": "passes to a deployment that compacts; else the gateway answers or reads it ([RESPONSES](RESPONSES.md))",
    "reference": "its `id` is checked: it works only for the account that received it",
}


def _action(rule: Rule) -> str:
    if rule.kind == VALUES:
        return f"pass, else {rule.otherwise}"
    return rule.action


def _value(rule: Rule) -> str:
    if rule.kind == VALUES:
        allowed = ", ".join(
            f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in rule.allowed
        )
        return f"{allowed}: {rule.why}"
    if rule.kind == NESTED:
        return f"see {rule.level}"
    kind = _KINDS.get(rule.kind) or ("opaque" if rule.kind else "")
    if rule.action in {DROP, REFUSE, TRANSLATE, PRICE, OWN} or rule.kind:
        return ": ".join(part for part in (kind, rule.why) if part)
    return kind


def _profiles() -> Iterator[str]:
    yield "| profile | maximum | usage in streams | caps output | request headers | response headers | `anthropic-beta` |"
    yield "|---|---|---|---|---|---|---|"
    for name in profile_names():
        profile = load_profile(name)
        maxima = (
            ", ".join(f"{protocol}: `{field}`" for protocol, field in profile.max_tokens_field.items())
            or "as the client"
        )
        headers = (
            ", ".join(f"`{header}`" for header in found)
            for found in (profile.request_headers, profile.response_headers)
        )
        betas = ", ".join(f"`{beta}`" for beta in sorted(profile.betas))
        caps = "yes" if profile.caps_output else "no"
        yield f"| {name} | {maxima} | {profile.stream_usage} | {caps} | {' | '.join(headers)} | {betas} |"


if __name__ == "__main__":
    print(reference(), end="")
