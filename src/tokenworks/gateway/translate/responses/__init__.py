"""OpenAI's responses in the intermediate form of translation."""

from typing import Final

from tokenworks.gateway.translate.codec import Codec
from tokenworks.gateway.translate.responses.responses_codec import ResponsesCodec

codec: Final[Codec] = ResponsesCodec()
