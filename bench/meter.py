"""CPU that metering a chunk costs, against another checkout's meter, in one process: a median of ratios over rounds.

Run: python -m bench.meter OTHER_CHECKOUT [ROUNDS]
"""

import gc
import importlib
import statistics
import sys
import time

CHUNKS = 4000
WORDS = [b" word", b" the", b" a", b"tion", b" and", b"\\n", b" of", b" meter", b"."]
CHAT = (
    b'data: {"id":"chatcmpl-123456789abcdef","object":"chat.completion.chunk","created":1790000000,"model":"best-1",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)
OPENAI = CHAT.replace(
    b'"choices"', b'"service_tier":"default","system_fingerprint":"fp_1","choices"'
).replace(
    b'"finish_reason":null}]', b'"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"k9"'
)
USED = b'],"usage":{"prompt_tokens":20,"total_tokens":24,"completion_tokens":4}}'
RESPONSES = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":12,"item_id":"msg_1234567890123456",'
    b'"output_index":0,"content_index":0,"delta":"%b","logprobs":[]}\n\n'
)
MESSAGES = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n'
# A title, the protocol, one chunk, and the model's name that the client requested.
ROWS = [
    ("chat", "chat", CHAT, "best-1"),
    ("chat, another name", "chat", CHAT, "shop/best"),
    ("chat, spaced", "chat", CHAT.replace(b'":', b'": ').replace(b',"', b', "'), "best-1"),
    ("chat, as OpenAI", "chat", OPENAI, "best-1"),
    (
        "chat, calls",
        "chat",
        CHAT.replace(b'"content":"%b"', b'"tool_calls":[{"index":0,"function":{"arguments":"%b"}}]'),
        "best-1",
    ),
    ("chat, usage each", "chat", CHAT.replace(b"]}\n", USED + b"\n"), "best-1"),
    ("completions", "completions", CHAT.replace(b'"delta":{"content":"%b"}', b'"text":"%b"'), "best-1"),
    ("messages", "messages", MESSAGES, ""),
    ("responses", "responses", RESPONSES, ""),
]


def load(source):
    """The `make_meter` of a checkout; several live side by side in this process."""
    kept = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "tokenworks"
    }
    sys.path.insert(0, f"{source}/src")
    try:
        try:
            stream = importlib.import_module("tokenworks.gateway.protocol.stream")
        except ModuleNotFoundError:  # a checkout from before the room had packages
            stream = importlib.import_module("tokenworks.gateway.protocol.stream")
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tokenworks"]:
            del sys.modules[name]
        sys.modules.update(kept)
    return stream


def meter(stream, protocol, requested_model):
    limits = {"event_bytes_max": 1 << 24, "text_max": 10**9}
    if hasattr(stream, "UsageOptions"):
        return stream.make_meter(
            protocol, requested_model=requested_model, usage_options=stream.UsageOptions(), **limits
        )
    if hasattr(stream, "UsageAsked"):  # an older checkout's names
        return stream.make_meter(protocol, asked_model=requested_model, ask=stream.UsageAsked(), **limits)
    return stream.make_meter(protocol, drop_usage=True, event_bytes_max=1 << 24)


def cost_us(stream, protocol, asked, chunks):
    feed = meter(stream, protocol, asked).feed
    feed(chunks[0])
    gc.collect()
    begun_s = time.process_time()
    for chunk in chunks:
        feed(chunk)
    return (time.process_time() - begun_s) / len(chunks) * 1e6


def main(other, rounds):
    old, new = load(other), load(".")
    for name, protocol, shape, asked in ROWS:
        chunks = [shape % WORDS[at % len(WORDS)] for at in range(CHUNKS)]
        pairs = []
        for at in range(rounds):
            first, second = (old, new) if at % 2 else (new, old)
            took = {id(which): cost_us(which, protocol, asked, chunks) for which in (first, second)}
            pairs.append((took[id(old)], took[id(new)]))
        before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name:20} {len(chunks[0]):4} B  {before:6.2f} -> {after:6.2f} us  x {ratio:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 9)
