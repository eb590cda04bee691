"""Usage as chat writes it, so that `protocol/usage.py` reads the same classes back."""

from tokenworks.catalog import Counts
from tokenworks.gateway.translate.form import JsonObject


def written_usage(counts: Counts) -> JsonObject:
    """The prompt includes what was read from and written to a cache, and the completion includes reasoning."""
    written = counts.cache_write + counts.cache_write_1h
    prompt_details: JsonObject = {"cached_tokens": counts.cached_input, "audio_tokens": counts.audio_input}
    if written:
        prompt_details["cache_write_tokens"] = written
    if counts.cache_write_1h:
        prompt_details["cache_creation"] = {
            "ephemeral_5m_input_tokens": counts.cache_write,
            "ephemeral_1h_input_tokens": counts.cache_write_1h,
        }
    return {
        "prompt_tokens": counts.input_tokens,
        "completion_tokens": counts.output_tokens,
        "total_tokens": counts.input_tokens + counts.output_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": counts.audio_output,
        },
    }
