"""CPU of a chunk that is translated, against one that is relayed: the same upstream of chat, streams of the same tokens, in pairs.

A client of messages or of responses is served by a deployment that speaks chat alone; the reference is a client of chat.
"""

import json
import statistics

from bench import load

TOKENS, GAP_MS = 250, 20
STREAMS = 200
BAR = 2.0
CLIENTS = {
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": TOKENS}),
    "responses": ("/v1/responses", {"input": "hi", "max_output_tokens": TOKENS, "store": False}),
}


def request_of(client, key):
    """The bytes of a streamed request; the upstream is told by the `user` that arrives there."""
    told = f"{TOKENS},{GAP_MS}"
    if client == "chat":
        return load.request(key, load.stream_body(TOKENS, GAP_MS))
    path, fields = CLIENTS[client]
    who = {"metadata": {"user_id": told}} if client == "messages" else {"user": told}
    return load.request(key, json.dumps({"model": "bench", "stream": True} | fields | who).encode(), path)


def ratios(cpu_of, key, rounds, bar):
    """client -> [(CPU of a relayed chunk, of a translated chunk) in µs]. `cpu_of(data, streams)`: CPU seconds of the server for so
    many streams.
    """
    pairs = {client: [] for client in CLIENTS}
    for at in range(rounds):
        for client, found in pairs.items():
            arms = ["chat", client] if at % 2 else [client, "chat"]
            took = {arm: cpu_of(request_of(arm, key), STREAMS) / (STREAMS * TOKENS) * 1e6 for arm in arms}
            found.append((took["chat"], took[client]))
            bar()
    return pairs


def rows(pairs):
    """(client, relayed µs, translated µs, ratio) by medians."""
    for client, found in pairs.items():
        yield (
            client,
            statistics.median(relayed for relayed, _ in found),
            statistics.median(translated for _, translated in found),
            statistics.median(translated / relayed for relayed, translated in found),
        )
