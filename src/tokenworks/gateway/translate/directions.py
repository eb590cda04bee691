"""The directions of translation: which protocols can be written as which others."""

from collections.abc import Sequence
from typing import Final

# The protocols into which a client's is translated, the best first. Chat comes first, since each vendor and engine has it; for a
# client of chat, messages come before responses, since a deployment of messages keeps no state.
DIRECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "chat": ("messages", "responses"),
    "messages": ("chat", "responses"),
    "responses": ("chat", "messages"),
}


def upstream_protocol(client_protocol: str, spoken: Sequence[str]) -> str | None:
    """The protocol into which a client's requests are translated for a deployment that speaks `spoken`. None: the deployment speaks the
    client's protocol, or there is no translation.
    """
    if client_protocol in spoken:
        return None
    for protocol in DIRECTIONS.get(client_protocol, ()):
        if protocol in spoken:
            return protocol
    return None
