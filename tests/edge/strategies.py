"""Random cases of the kinds that are about money, in the form of a case, each with what is right by the truth that its upstream keeps."""

import base64
import json

from hypothesis import strategies as st

from tests.edge.manners import allow_list, client_fields, headers, http, retry_after
from tests.edge.shapes import TOKEN, WORD, asked, begun, chunk, ended, pieces, spec, streamed, usage, whole

TEXTUAL = ("chat", "messages", "responses", "completions")
STREAMED = ("chat", "messages", "responses")
JUNK = st.sampled_from([None, [], {}, "", "n/a", False, True, -1, -3.5, "twelve", [7]])
# Left by the client with so little of the maximum to come, or after the reason to end, a stream is read to its end.
DRAIN_TOKENS = 512


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
        client = {"resets_when_asked": draw(st.integers(0, 80))}
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
    loss = "none"
    if stream and draw(st.booleans()):
        failure, good = (
            {"events": draw(st.sampled_from(events_of_failure(protocol)))},
            streamed(protocol, 5, 10, 5),
        )
        if protocol == "messages" and len(failure["events"]) > 1:
            loss = {"tokens": 11}  # its start reports them
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
            "loss": loss,
        }
        return spec(
            "not-success",
            protocol,
            body,
            [failure | {"if": {"attempt": 1}}, good],
            expect,
            deployment={"count": 2},
        )
    expect = {"status": [429, 500, 502, 503, 529], "see": ['"error"'], "charged": {}, "loss": loss}
    return spec("not-success", protocol, body, failure, expect)


OF_KIND = {
    "usage-shapes": usage_shapes(), "waived": waived(), "beyond-hold": beyond_hold(), "disconnect": disconnect(), "not-success": not_success(),
    "allow-list": allow_list(), "client-fields": client_fields(), "http": http(), "headers": headers(), "retry-after": retry_after(),
}  # fmt: skip
