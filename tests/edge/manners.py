"""Random cases of the kinds that are about what passes, in the form of a case: fields, tools, HTTP, headers, times to come back."""

import base64
import json

from hypothesis import strategies as st

from tests.edge.shapes import TOKEN, asked, spec, streamed, usage, whole

STREAMED = ("chat", "messages", "responses")


KNOWN = ("service_tier", "max_tokens", "n", "stream", "enable_thinking", "messages", "logit_bias", "priority")
UNKNOWN = st.one_of(
    st.from_regex(r"x_[a-z]{3,12}", fullmatch=True), st.from_regex(r"[A-Z][a-z]{3,8}[A-Z][a-z]{3,8}", fullmatch=True),
    st.sampled_from([name.upper() for name in KNOWN]), st.sampled_from(["enable_search", "search_parameters", "web_search", "lora_path", "fallbacks"]),
)  # fmt: skip
OPAQUE = st.dictionaries(
    st.from_regex(r"[a-zA-Z_]{1,10}", fullmatch=True), st.one_of(st.integers(-9, 9), st.booleans(), st.text('abc"\\é中', max_size=8), st.lists(st.integers(0, 9), max_size=3)),
    max_size=4,
)  # fmt: skip


@st.composite
def allow_list(draw):
    protocol = draw(st.sampled_from(STREAMED))
    names = draw(st.lists(UNKNOWN, min_size=1, max_size=4, unique=True))
    inside = draw(st.sampled_from(["body", "message", "tool"]))
    schema = {"type": "object", "properties": draw(OPAQUE)} | draw(OPAQUE)
    body = asked(protocol, "hi", 100)
    tool = {"name": "f", "description": "d"}
    tool |= {"input_schema": schema} if protocol == "messages" else {"parameters": schema}
    sent = (
        {"type": "function", "function": tool}
        if protocol == "chat"
        else tool
        if protocol == "messages"
        else {"type": "function"} | tool
    )
    body["tools"] = [sent]
    strange = dict.fromkeys(names, draw(st.sampled_from([1, True, "yes", {"mode": "on"}])))
    if inside == "body":
        body |= strange
    elif inside == "message" and protocol != "responses":
        body["messages"] = [{"role": "user", "content": "hi"} | strange]
    else:
        body["tools"] = [sent | strange]
    opaque = json.dumps(schema)
    lacks = [name for name in names if f'"{name}"' not in opaque]
    expect = {
        "status": 200,
        "upstream_sees": {"lacks": lacks, "has": {"tools": [sent]}},
        "says_dropped": lacks[:1],
        "charged": {"fresh_input": 10, "output": 5},
    }
    return spec("allow-list", protocol, body, whole(protocol, "hello there", usage(protocol, 10, 5)), expect)


FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
AT_THE_CLIENT = [
    {"type": "namespace", "name": "agents", "description": "helpers", "tools": []}, {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"},
    {"type": "custom", "name": "c", "format": {"type": "text"}}, {"type": "tool_search"}, FUNCTION | {"name": "g"},
]  # fmt: skip
HOSTED = [
    {"type": "web_search"}, {"type": "web_search_preview"}, {"type": "web_search", "external_web_access": False},
    {"type": "mcp", "server_label": "x", "server_url": "https://mcp.example.com"}, {"type": "image_generation"},
]  # fmt: skip


@st.composite
def client_fields(draw):
    protocol = draw(st.sampled_from(["chat", "responses"]))
    maximum = draw(st.integers(16, 900))
    body = asked(protocol, "hi")
    answer, expect = (
        whole(protocol, "hello there", usage(protocol, 10, 5)),
        {"status": 200, "charged": {"fresh_input": 10, "output": 5}},
    )
    said = draw(st.sampled_from([maximum, float(maximum)]))
    if protocol == "responses":
        local, hosted = (
            draw(st.lists(st.sampled_from(AT_THE_CLIENT), unique_by=str)),
            draw(st.lists(st.sampled_from(HOSTED), unique_by=str, max_size=2)),
        )
        body |= {"tools": draw(st.permutations([FUNCTION, *local, *hosted])), "max_output_tokens": said}
        kept = [tool["type"] for tool in local if tool["type"] not in {"namespace"}]
        seen = {"lacks_text": [tool["type"] for tool in hosted], "model_max": maximum}
        expect |= {"says_dropped": [tool["type"] for tool in hosted][:1], "upstream_sees": seen}
        assert kept is not None
        return spec("client-fields", protocol, body, answer, expect)
    body |= draw(
        st.sampled_from(
            [
                {"max_tokens": said},
                {"max_completion_tokens": said},
                {"max_tokens": said, "max_completion_tokens": maximum},
            ]
        )
    )
    seen = {"model_max": maximum}
    if draw(st.booleans()):
        options = draw(
            st.sampled_from(
                [{}, {"include_usage": False}, {"include_usage": True}, {"include_obfuscation": False}, None]
            )
        )
        body |= {"stream": True, "stream_options": options}
        answer = streamed(protocol, 5, 10, 5)
        seen["has"] = {"stream_options": (options or {}) | {"include_usage": True}}
        asked_for = bool(options and options.get("include_usage"))
        expect |= {
            "see": ["[DONE]", *(['"completion_tokens":5'] if asked_for else [])],
            "not_see": [] if asked_for else ["prompt_tokens"],
        }
    return spec("client-fields", protocol, body, answer, expect | {"upstream_sees": seen})


@st.composite
def http(draw):
    protocol, stream = draw(st.sampled_from(STREAMED)), draw(st.booleans())
    request = {
        "body": asked(protocol, "hi", 100, stream=stream),
        "encode": draw(st.sampled_from([None, "gzip", "br", "zstd"])),
    }
    request |= {"bom": draw(st.booleans()), "chunked": draw(st.booleans())}
    request["headers"] = draw(st.sampled_from([
        {}, {"authorization": None, "x-api-key": "{key}"}, {"authorization": "Bearer sk-not-ours", "x-api-key": "{key}"},
        {"authorization": "bearer {key}"}, {"authorization": None, "x-goog-api-key": "{key}"}, {"x-api-key": "dummy"},
    ]))  # fmt: skip
    answer, see = whole(protocol, TOKEN * 5, usage(protocol, 10, 5)), [TOKEN * 5]
    if stream:
        answer, see = {"events": draw(_in_pieces(protocol)), "gap_ms": 1}, [TOKEN]
        kind = draw(
            st.sampled_from(
                [
                    None,
                    "text/plain",
                    "TEXT/EVENT-STREAM; CHARSET=UTF-8",
                    "text/event-stream",
                    "application/octet-stream",
                ]
            )
        )
        answer["headers"] = {"content-type": kind}
    else:
        answer |= draw(
            st.sampled_from(
                [
                    {},
                    {"encode": "gzip"},
                    {"headers": {"content-encoding": "utf-8"}},
                    {"headers": {"content-encoding": "identity"}},
                ]
            )
        )
    expect = {
        "status": 200,
        "see": see,
        "charged": {"fresh_input": 10, "output": 5},
        "no_headers": ["content-encoding"],
        "no_flags": ["no_usage"],
    }
    return spec("http", protocol, {name: value for name, value in request.items() if value}, answer, expect)


@st.composite
def _in_pieces(draw, protocol):
    """The bytes of a stream, cut where nobody cuts them."""
    text = b""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    for event in streamed(protocol, 5, 10, 5)["events"]:
        data = event if isinstance(event, str) else json.dumps(event["data"])
        name = event["data"].get("type") if isinstance(event, dict) and protocol != "chat" else None
        lines = ([f"event: {name}"] if name else []) + [
            f"data:{draw(st.sampled_from(['', ' ']))}{data}",
            "",
            "",
        ]
        text += newline.join(lines).encode() * (event.get("times", 1) if isinstance(event, dict) else 1)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [
        {"base64": base64.b64encode(text[a:b]).decode()}
        for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)
        if a < b
    ]


@st.composite
def headers(draw):
    protocol = draw(st.sampled_from(STREAMED))
    names = draw(
        st.lists(
            st.from_regex(r"(x|cf|openai|anthropic-ratelimit|via|nel)-[a-z]{3,12}", fullmatch=True),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    ours = {"x-request-id", "x-api-key", "x-goog-api-key"}
    names = [name for name in names if name not in ours]
    request = {"body": asked(protocol, "hi", 100), "headers": dict.fromkeys(names, "of the client")}
    answer = whole(protocol, "hello there", usage(protocol, 10, 5)) | {
        "headers": dict.fromkeys(names, "of the vendor")
    }
    # Of these prefixes one may be let through by a list; what the other side said never arrives under it.
    expect = {
        "status": 200,
        "no_headers": names,
        "upstream_sees": {"lacks_headers": names},
        "charged": {"fresh_input": 10, "output": 5},
    }
    return spec("headers", protocol, request, answer, expect)


@st.composite
def retry_after(draw):
    protocol, status = draw(st.sampled_from(STREAMED)), draw(st.sampled_from([429, 503, 529]))
    wait_s = draw(st.integers(8, 50))
    said = draw(st.sampled_from([
        {"retry-after": str(wait_s)}, {"Retry-After": f"{wait_s}.0"}, {"retry-after": f"{{date+{wait_s}}}"}, {"retry-after-ms": str(wait_s * 1000)},
        {"x-ratelimit-reset-requests": f"{wait_s}s", "x-ratelimit-remaining-requests": "0"},
        {"X-RateLimit-Reset-Tokens": f"{wait_s * 1000}ms", "x-ratelimit-remaining-tokens": "0"},
    ]))  # fmt: skip
    body = asked(protocol, "hi", 100, stream=draw(st.booleans()))
    error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    before = [
        {
            "request": {"body": body},
            "upstream": {"status": status, "headers": said, "json": error},
            "pause_ms": 0,
        }
    ]
    near = "|".join(map(str, range(wait_s - 6, wait_s + 2)))
    expect = {"status": [429, 503, 529], "attempts": 0, "headers": {"retry-after": near}, "charged": {}}
    good = whole(protocol, "hello there", usage(protocol, 10, 5))
    return spec("retry-after", protocol, {"body": body, "timeout_s": 5}, good, expect, before=before)
