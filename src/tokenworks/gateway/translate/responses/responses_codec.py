"""The codec of OpenAI's responses."""

from tokenworks.gateway.translate.codec import Naming, Target
from tokenworks.gateway.translate.form import Answer, JsonObject, Request
from tokenworks.gateway.translate.responses import answers, request_writer, requests
from tokenworks.gateway.translate.responses.reader import ResponsesReader
from tokenworks.gateway.translate.responses.writer import ResponsesWriter


class ResponsesCodec:
    """Implements `codec.Codec`."""

    __slots__ = ()

    def read_request(self, fields: JsonObject) -> tuple[Request, tuple[str, ...]]:
        return requests.read_request(fields)

    def write_request(self, request: Request, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
        return request_writer.write_request(request, target)

    def read_answer(self, fields: JsonObject) -> Answer:
        return answers.read_answer(fields)

    def write_answer(self, answer: Answer, naming: Naming) -> JsonObject:
        return answers.write_answer(answer, naming)

    def event_reader(self) -> ResponsesReader:
        return ResponsesReader()

    def event_writer(self, naming: Naming) -> ResponsesWriter:
        return ResponsesWriter(naming)
