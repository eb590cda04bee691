"""Random cases of each kind, in the form of a case, each with what is right by the truth that its upstream keeps."""

import base64
import json

from hypothesis import strategies as st

from tests.edge.shapes import TOKEN, WORD, asked, begun, chunk, ended, pieces, streamed, usage, whole

TEXTUAL = ("chat", "messages", "responses", "completions")
STREAMED = ("chat", "messages", "responses")
JUNK = st.sampled_from([None, [], {}, "", "n/a", False, True, -1, -3.5, "twelve", [7]])
REFUSED = [400, 403, 404]
# Left by the client with so little of the maximum to come, or after the reason to end, a stream is read to its end.
DRAIN_TOKENS = 512


def spec(kind, protocol, body, upstream, expect, **more):
    request = {"body": body} if isinstance(body, dict) and "model" in body else body
    return {
        "kind": kind,
        "source": "own",
        "protocol": protocol,
        "request": request,
        "upstream": upstream,
        "expect": expect,
    } | more


@st.composite
def spelled(draw, number):
    """A number as somebody's JSON writes it."""
    return draw(st.sampled_from([number, number, float(number), str(number), f" {number} ", f"{number}.0"]))


@st.composite
def usage_shapes(draw):
    protocol = draw(st.sampled_from([*TEXTUAL, "embeddings"]))
    prompt = draw(st.integers(1, 3000))
    output = 0 if protocol == "embeddings" else draw(st.integers(1, 150))
    anthropic = protocol == "messages"
    cached = draw(st.integers(0, prompt // 2))
    hidden = 0 if anthropic or protocol in {"embeddings", "completions"} else draw(st.integers(0, output - 1))
    cached_bad, hidden_bad, details_bad = (draw(st.integers(0, 3)) == 0 for _ in range(3))
    used = {
        name: draw(spelled(count))
        for name, count in usage(protocol, prompt - cached if anthropic else prompt, output).items()
    }
    if "total_tokens" in used and protocol != "embeddings" and draw(st.integers(0, 3)) == 0:
        used["total_tokens"] = draw(JUNK)
    cached_said = draw(JUNK) if cached_bad else draw(spelled(cached))
    if anthropic:
        used["cache_read_input_tokens"] = cached_said
        used["cache_creation"] = draw(JUNK)
        used["server_tool_use"] = draw(
            st.sampled_from([None, {"web_search_requests": 1}, {"web_search_requests": "2"}])
        )
    elif protocol != "embeddings":
        names = (
            ("input_tokens_details", "output_tokens_details")
            if protocol == "responses"
            else ("prompt_tokens_details", "completion_tokens_details")
        )
        used[names[0]] = (
            draw(JUNK) if details_bad else {"cached_tokens": cached_said, "audio_tokens": draw(JUNK)}
        )
        cached_bad = cached_bad or details_bad
        used[names[1]] = {"reasoning_tokens": draw(JUNK) if hidden_bad else draw(spelled(hidden))}
    else:
        cached = 0
    cached = 0 if cached_bad and not anthropic else cached
    if anthropic and cached_bad:
        prompt, cached = prompt - cached, 0  # what is not said there is said nowhere
    hidden = 0 if hidden_bad else hidden
    used = dict(draw(st.permutations(list(used.items()))))
    body = asked(
        protocol, WORD * prompt, None if protocol == "embeddings" else max(output, 200), stream=False
    )
    answer = whole(protocol, TOKEN * output, used)
    if protocol in STREAMED and draw(st.booleans()):
        body["stream"] = True
        answer = {"events": draw(_usage_in_a_stream(protocol, output, used)), "gap_ms": 0}
    elif protocol == "chat" and draw(st.booleans()):
        answer["json"]["choices"][0]["usage"] = answer["json"].pop("usage")
    charged = {
        "fresh_input": prompt - cached,
        "cached_input": cached,
        "output": output - hidden,
        "reasoning": hidden,
    }
    expect = {
        "status": 200,
        "charged": charged,
        "loss": "none",
        "truth": {"all": prompt + output},
        "no_flags": ["no_usage", "waived"],
    }
    return spec("usage-shapes", protocol, body, answer, expect)


@st.composite
def _usage_in_a_stream(draw, protocol, output, used):
    text = pieces(protocol, output)
    if protocol == "messages":
        first = {name: value for name, value in used.items() if name != "output_tokens"}
        # The last one says all, its output alone, or a zero for what the first one said.
        last = draw(
            st.sampled_from(
                [
                    used,
                    {"output_tokens": used["output_tokens"]},
                    {"output_tokens": used["output_tokens"], "input_tokens": 0},
                ]
            )
        )
        return [*begun(protocol, first), *text, *ended(protocol, last)]
    if protocol == "responses":
        return [*begun(protocol), *text, *ended(protocol, used)]
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    after = draw(st.sampled_from([[], [chunk({}, usage=zero)], [chunk({}, usage=None)]]))
    where = draw(st.sampled_from(["own", "with finish", "in the choice"]))
    end = ended(protocol, used)[:2]
    if where == "with finish":
        end = [chunk({}, "stop", usage=used)]
    if where == "in the choice":
        end = [chunk({}, "stop")]
        end[0]["data"]["choices"][0]["usage"] = used
    before = draw(
        st.sampled_from(
            [
                [],
                [chunk({"role": "assistant", "content": ""}, usage=None)],
                [chunk({"role": "assistant"}, usage=zero)],
            ]
        )
    )
    return [*before, *text, *end, *after, "[DONE]"]


@st.composite
def waived(draw):
    protocol = draw(st.sampled_from(TEXTUAL))
    maximum, output = draw(st.integers(16, 400)), draw(st.integers(1, 600))
    prompt = draw(st.integers(1, 200))
    way = draw(st.sampled_from(["text", "hidden", "tools"] if protocol in STREAMED else ["text"]))
    used = usage(protocol, prompt, output)
    body, more = asked(protocol, WORD * prompt, maximum), {}
    answer = whole(protocol, TOKEN * output if way == "text" else "42", used)
    if way == "hidden" and protocol == "messages":
        body["thinking"] = {"type": "adaptive"}
    if way == "hidden" and protocol != "messages":
        details = "output_tokens_details" if protocol == "responses" else "completion_tokens_details"
        used[details] = {"reasoning_tokens": output}
        body |= {"reasoning": {"effort": "high"}} if protocol == "responses" else {"reasoning_effort": "high"}
    if way == "tools":
        output = used_by_tools(protocol, body, answer, used, draw(st.integers(1, 12)))
    beyond = max(0, output - maximum)
    expect = {
        "status": 200, "charged": {"fresh_input": prompt, "output+reasoning": output - beyond}, "truth": {"all": prompt + output},
        "loss": {"tokens": beyond, "cause": "any"} if beyond else "none", "no_flags": [] if beyond else ["waived"],
    }  # fmt: skip
    return spec("waived", protocol, body, answer, expect, **more)


def used_by_tools(protocol, body, answer, used, calls):
    """An answer of nothing but tool calls, 30 tokens each, which is what a long name and its frame cost."""
    name, output = "mcp__registry__get_entry_with_all_its_revisions", 30 * calls
    used.update(usage(protocol, used.get("input_tokens", used.get("prompt_tokens")), output))
    schema = {"type": "object", "properties": {}}
    made = answer["json"]
    if protocol == "chat":
        body["tools"] = [{"type": "function", "function": {"name": name, "parameters": schema}}]
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
        made["choices"][0] |= {
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": [call] * calls},
        }
    elif protocol == "messages":
        body["tools"] = [{"name": name, "input_schema": schema}]
        made |= {
            "stop_reason": "tool_use",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}] * calls,
        }
    else:
        body["tools"] = [{"type": "function", "name": name, "parameters": schema}]
        made["output"] = [
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": "{}"}
        ] * calls
    return output


@st.composite
def beyond_hold(draw):
    protocol = draw(st.sampled_from(STREAMED))
    account, had = draw(st.sampled_from([("sample-trial", 10_000), ("fresh", 150_000_000)]))
    prompt, output = draw(st.integers(1, 30_000)), draw(st.integers(1, 20))
    part = draw(st.sampled_from(["picture by URL", "picture inline", "document", "none"]))
    body = asked(protocol, "hi", 20)
    if part != "none":
        content = [
            media(protocol, part),
            {"type": "input_text" if protocol == "responses" else "text", "text": "what is it"},
        ]
        body |= {"input" if protocol == "responses" else "messages": [{"role": "user", "content": content}]}
    expect = {
        "status": [200, 400, 402, 403, 429, 503],
        "drawn": {"min": 0, "max": had},
        "loss": {"cause": "any"},
    }
    if account == "fresh":
        expect |= {"status": 200, "loss": "none"}
    answer = whole(protocol, "42", usage(protocol, prompt, output)) | {
        "delay_ms": draw(st.sampled_from([0, 30]))
    }
    made = spec(
        "beyond-hold", protocol, body, answer, expect, account=account, at_once=draw(st.integers(1, 5))
    )
    return made | {"truth_of_a_hit": prompt + output}


PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x04\x00\x00\x00\x04\x00\x08\x02\x00\x00\x00\xf0\x7f\xbc\xd4\x00\x00\x00\x00IEND\xaeB`\x82"
).decode()


def media(protocol, part):
    url = "https://img.example.com/a.png" if part == "picture by URL" else f"data:image/png;base64,{PNG}"
    if part == "document":
        pdf = base64.b64encode(b"%PDF-1.4\n%%EOF\n").decode()
        return {
            "chat": {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf}"},
            },
            "responses": {
                "type": "input_file",
                "filename": "a.pdf",
                "file_data": f"data:application/pdf;base64,{pdf}",
            },
            "messages": {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": pdf},
            },
        }[protocol]
    source = (
        {"type": "url", "url": url}
        if part == "picture by URL"
        else {"type": "base64", "media_type": "image/png", "data": PNG}
    )
    return {
        "chat": {"type": "image_url", "image_url": {"url": url}},
        "responses": {"type": "input_image", "image_url": url},
        "messages": {"type": "image", "source": source},
    }[protocol]


@st.composite
def disconnect(draw):
    protocol = draw(st.sampled_from(STREAMED))
    prompt, output = draw(st.integers(20, 3000)), draw(st.integers(5, 120))
    maximum = draw(st.sampled_from([None, output, DRAIN_TOKENS, 20_000]))
    maximum = 20_000 if maximum is None and protocol == "messages" else maximum
    body = asked(protocol, WORD * prompt, maximum, stream=True)
    answer = streamed(protocol, output, prompt, output, gap_ms=draw(st.sampled_from([0, 1, 3])))
    way = draw(st.sampled_from(["events", "reason", "unstreamed"]))
    drained = way != "events" or (maximum is not None and maximum <= DRAIN_TOKENS)
    client = (
        "stops at finish_reason"
        if way == "reason"
        else {"resets_after_events": draw(st.integers(1, output + 1))}
    )
    if way == "unstreamed":
        body = asked(protocol, WORD * prompt, maximum)
        answer = whole(protocol, TOKEN * output, usage(protocol, prompt, output)) | {"delay_ms": 120}
        client = {"resets_after_ms": draw(st.integers(20, 100))}
    charged = {"fresh_input": {"min": 0, "max": prompt}, "output+reasoning": {"min": 0, "max": output}}
    expect = {
        "charged": charged,
        "accounted": {"fresh_input": {"min": prompt // 27, "max": prompt}},
        "loss": {"cause": "any"},
        "records": 1,
    }
    if drained:
        expect |= {
            "charged": {"fresh_input": prompt, "output+reasoning": output},
            "loss": "none",
            "truth": {"all": prompt + output},
        }
    return spec("disconnect", protocol, body, answer, expect, client=client)


def bodies_of_failure(protocol):
    """Bodies under a 200 that are none."""
    shapes = [
        {"error": {"message": "engine is full", "code": 503}}, {"error": {"message": "engine is full", "type": "server_error"}, "id": "c0"},
        {"object": "error", "message": "engine is full", "type": "InternalServerError", "param": None, "code": 500},
        {"type": "error", "error": {"type": "overloaded_error", "message": "engine is full"}}, {"code": 500, "msg": "engine is full", "success": False},
    ]  # fmt: skip
    if protocol == "chat":
        choice = {"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": ""}}
        shapes += [
            {"id": "c0", "object": "chat.completion", "choices": None, "usage": None},
            {"id": "c0", "object": "chat.completion", "choices": [choice]},
        ]
    if protocol == "responses":
        shapes += [
            {
                "id": "resp_0",
                "object": "response",
                "status": "failed",
                "error": {"code": "server_error", "message": "engine is full"},
                "output": [],
                "usage": None,
            }
        ]
    return [*shapes, None]


def events_of_failure(protocol):
    """First events of a stream that has failed before there was content."""
    error = {"error": {"message": "engine is full", "code": 503}}
    if protocol == "messages":
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "engine is full"}}
    if protocol == "responses":
        error = {"type": "error", "code": "server_error", "message": "engine is full"}
    failed = {
        "type": "response.failed",
        "response": {
            "id": "resp_0",
            "status": "failed",
            "error": {"code": "server_error", "message": "engine is full"},
        },
    }
    begin = begun(protocol, {"input_tokens": 10, "output_tokens": 1})
    shapes = [[{"data": error}], [*begin, {"data": error}]]
    if protocol == "chat":
        shapes += [
            [chunk({"role": "assistant", "content": ""}), {"data": error}, "[DONE]"],
            [": wait\n\n", chunk({"content": ""}, "error", **error)],
        ]
    return [*shapes, [*begin, {"data": failed}]] if protocol == "responses" else shapes


@st.composite
def not_success(draw):
    protocol, stream = draw(st.sampled_from(STREAMED)), draw(st.booleans())
    body = asked(protocol, "hi", 100, stream=stream)
    if stream and draw(st.booleans()):
        failure, good = (
            {"events": draw(st.sampled_from(events_of_failure(protocol)))},
            streamed(protocol, 5, 10, 5),
        )
    else:
        text = json.dumps(
            draw(st.sampled_from(bodies_of_failure(protocol))), indent=draw(st.sampled_from([None, 1]))
        )
        failure, good = {"text": draw(st.sampled_from(["", " ", "\n"])) + text}, streamed(protocol, 5, 10, 5)
        good = good if stream else whole(protocol, TOKEN * 5, usage(protocol, 10, 5))
    if draw(st.booleans()):
        expect = {
            "status": 200,
            "see": [TOKEN],
            "not_see": ["engine is full"],
            "attempts": 2,
            "charged": {"fresh_input": 10, "output": 5},
            "loss": "none",
        }
        return spec(
            "not-success",
            protocol,
            body,
            [failure | {"if": {"attempt": 1}}, good],
            expect,
            deployment={"count": 2},
        )
    expect = {"status": [429, 500, 502, 503, 529], "see": ['"error"'], "charged": {}, "loss": "none"}
    return spec("not-success", protocol, body, failure, expect)


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


OF_KIND = {
    "usage-shapes": usage_shapes(), "waived": waived(), "beyond-hold": beyond_hold(), "disconnect": disconnect(), "not-success": not_success(),
    "allow-list": allow_list(), "client-fields": client_fields(), "http": http(), "headers": headers(), "retry-after": retry_after(),
}  # fmt: skip
