"""The codec of chat completions. docs/TRANSLATION.md has its fields (`fields.yaml`)."""

from tokenworks.gateway.translate.chat.chat_codec import codec

__all__ = ["codec"]
