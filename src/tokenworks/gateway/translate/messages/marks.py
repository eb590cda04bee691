"""Reasoning in the answers of other protocols' providers, which a client of messages sends back with the next request.

Clients keep a block of thinking only with its signature, and Anthropic refuses a signature that it did not make. So thinking that no provider
signed has a mark in its place, and what another provider encrypted stands after a mark. The reader of requests takes the marks off again; a
deployment that is sent the client's own body does not get such blocks (`protocol/fields/scan.py`).
"""

from tokenworks.gateway.protocol.fields.layout import TRANSLATED, TRANSLATED_DATA


def written_signature(signature: str | None) -> str:
    return signature or TRANSLATED


def read_signature(value: str | None) -> str | None:
    """None if no provider signed the thinking."""
    return None if not value or value == TRANSLATED else value


def written_data(encrypted: str) -> str:
    return TRANSLATED_DATA + encrypted


def read_data(value: str | None) -> str | None:
    """What the provider of a translated answer encrypted. None for what the provider of a native answer did: it means nothing to others."""
    if value is None or not value.startswith(TRANSLATED_DATA):
        return None
    return value.removeprefix(TRANSLATED_DATA) or None
