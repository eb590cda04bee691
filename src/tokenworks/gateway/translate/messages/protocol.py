"""The codec of Anthropic's messages."""

from typing import Final

from tokenworks.gateway.translate.codec import EventReader, EventWriter, Naming, Target
from tokenworks.gateway.translate.form import Answer, JsonObject, Request
from tokenworks.gateway.translate.messages.answers import read_answer, write_answer
from tokenworks.gateway.translate.messages.read_request import read_request
from tokenworks.gateway.translate.messages.reader import MessagesReader
from tokenworks.gateway.translate.messages.write_request import write_request
from tokenworks.gateway.translate.messages.writer import MessagesWriter


class MessagesCodec:
    """The codec of messages. It has no state: a reader or a writer of a stream has."""

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
        return MessagesReader()

    def event_writer(self, naming: Naming) -> EventWriter:
        return MessagesWriter(naming)


codec: Final = MessagesCodec()
