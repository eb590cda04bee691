"""The codec of chat completions."""

from typing import Final

from tokenworks.gateway.translate.chat.answers import read_answer, write_answer
from tokenworks.gateway.translate.chat.read_request import read_request
from tokenworks.gateway.translate.chat.reader import ChatEventReader
from tokenworks.gateway.translate.chat.write_request import write_request
from tokenworks.gateway.translate.chat.writer import ChatEventWriter
from tokenworks.gateway.translate.codec import Codec, EventReader, EventWriter, Naming, Target
from tokenworks.gateway.translate.form import Answer, JsonObject, Request


class ChatCodec:
    """The codec of chat completions. It has no state: a reader or a writer of a stream has."""

    __slots__ = ()

    def read_request(self, fields: JsonObject) -> tuple[Request, tuple[str, ...]]:
        return read_request(fields)

    def write_request(self, request: Request, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
        return write_request(request, target)

    def read_answer(self, fields: JsonObject) -> Answer:
        return read_answer(fields)

    def write_answer(self, answer: Answer, naming: Naming) -> JsonObject:
        return write_answer(answer, naming)

    def event_reader(self) -> EventReader:
        return ChatEventReader()

    def event_writer(self, naming: Naming) -> EventWriter:
        return ChatEventWriter(naming)


codec: Final[Codec] = ChatCodec()
