"""Streams and answers in the shapes that vendors send, for the tests of what reads them. The texts are ours."""

import json


def sse(*events, end="\n\n"):
    """Events as bytes: objects (named by their type in messages and responses), texts as they are, comments with a colon."""
    out = []
    for event in events:
        if isinstance(event, str):
            out.append(event if event.startswith(":") else f"data: {event}")
        else:
            kind = event.get("type")
            named = f"event: {kind}\n" if isinstance(kind, str) and "choices" not in event else ""
            out.append(f"{named}data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}")
    return "".join(text + "\n\n" for text in out).replace("\n", end[: len(end) // 2]).encode()


def chunk(delta=None, finish=None, *, model="v", index=0, **more):
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [choice],
    } | more


def usage_chunk(usage, model="v"):
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [],
        "usage": usage,
    }


def used(prompt, completion, **more):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    } | more


def chat_stream(words=("word ",) * 5, usage=None, finish="stop", model="v"):
    end = [usage_chunk(usage, model)] if usage else []
    return [
        chunk({"role": "assistant", "content": ""}, model=model),
        *(chunk({"content": word}, model=model) for word in words),
        chunk(finish=finish, model=model),
        *end,
        "[DONE]",
    ]


def message_start(usage, model="v"):
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "usage": usage,
    }
    return {"type": "message_start", "message": message}


def text_block(*words, index=0):
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": word}}
            for word in words
        ),
        {"type": "content_block_stop", "index": index},
    ]


def message_delta(usage, stop="end_turn"):
    return {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage}


STOP = {"type": "message_stop"}


def response(status, **more):
    return {"id": "resp_1", "object": "response", "status": status, "model": "v", "output": []} | more


def piece(text, item="m1", kind="response.output_text", at=0):
    return {"type": f"{kind}.delta", "item_id": item, "output_index": at, "content_index": 0, "delta": text}
