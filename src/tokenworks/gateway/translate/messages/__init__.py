"""The codec of Anthropic's messages. docs/TRANSLATION.md has its fields (`fields.yaml`)."""

from tokenworks.gateway.translate.messages.protocol import codec

__all__ = ["codec"]
