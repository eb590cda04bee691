"""Usage in the fields of messages. Input, cache reads and cache writes are disjoint there; thinking is a part of the output."""

from tokenworks.catalog import Counts
from tokenworks.gateway.translate.form import JsonObject


def written_usage(counts: Counts | None) -> JsonObject:
    """Usage that reads as the same counts again (`protocol/usage.py`). Messages have no class for audio: it counts as plain input and
    plain output. None: nothing is known yet, or the provider reported nothing.

    The SDKs take all of it from `message_delta` but `cache_creation`, the division of cache writes by age, which they know from
    `message_start` alone (anthropic 2.12.0, `lib/streaming`).
    """
    counts = counts or Counts()
    written, hour = counts.cache_write + counts.cache_write_1h, counts.cache_write_1h
    usage: JsonObject = {
        "input_tokens": counts.fresh_input + counts.audio_input,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": counts.cached_input,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.cache_write,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": counts.output_tokens,
    }
    if counts.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": counts.reasoning}
    return usage
