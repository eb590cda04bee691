"""A plugin of pytest for the SDKs' own tests, which are left as they are: what they send goes through a gateway.

Requests to the mock server that the tests want (`TEST_API_BASE_URL`) go to the gateway with a key of its own. A test that mocks an
answer gets the gateway's instead: the vendor behind the gateway is told to answer as the mock does (`EDGE_TOLD`), and the request goes
to the gateway. Each test leaves a line in `EDGE_REPORT`: its id, how it ended, and how many of its requests the gateway answered.

It is loaded by its name from this folder, since the SDKs' tests are a package `tests` too.
"""

import contextlib
import http.client
import json
import os
from urllib.parse import urlsplit

import httpx2

GATEWAY = urlsplit(os.environ["TEST_API_BASE_URL"])
KEY = os.environ["EDGE_KEY"]
TOLD = urlsplit(os.environ["EDGE_TOLD"])
PROTOCOLS = {"/chat/completions": "chat", "/messages": "messages", "/responses": "responses"}
TIMEOUT_S = 60
# Headers of one connection, and what a client learns of a body that is decoded already.
OF_THE_CONNECTION = {"connection", "content-encoding", "content-length", "date", "transfer-encoding"}


class Through:
    """`reached`: requests of the test in progress that the gateway answered; `ended`: its reports by their phase."""

    def __init__(self):
        self.reached = 0
        self.ended = {}

    def asks_the_gateway(self, request):
        return (request.url.host, request.url.port) == (GATEWAY.hostname, GATEWAY.port)

    def give_key(self, request):
        if not self.asks_the_gateway(request):
            return
        self.reached += 1
        request.headers["authorization"] = f"Bearer {KEY}"
        request.headers.pop("x-api-key", None)

    def protocol_of(self, request, response):
        """The protocol of a mocked answer that a vendor could have given; None for another one, which stays mocked."""
        kind = response.headers.get("content-type", "")
        if request.method != "POST" or response.status_code != 200 or not self.asks_the_gateway(request):
            return None
        path = request.url.path
        protocol = next((name for end, name in PROTOCOLS.items() if path.endswith(end)), None)
        return protocol if "event-stream" in kind or "json" in kind or not kind else None

    def forward(self, request, response, protocol, content):
        """The gateway's answer to a request for which the vendor answers `content`."""
        kind = response.headers.get("content-type") or "text/event-stream"
        tell({"protocol": protocol, "type": kind, "text": content.decode()})
        self.reached += 1
        headers = {name: value for name, value in request.headers.items() if name not in {"host", "content-length", "authorization", "x-api-key", "accept-encoding"}}  # fmt: skip
        try:
            status, got, body = post(GATEWAY, request.url.raw_path.decode(), request.content, headers | {"authorization": f"Bearer {KEY}"})  # fmt: skip
        finally:
            tell({"protocol": None})
        kept = [(name, value) for name, value in got if name.lower() not in OF_THE_CONNECTION]
        return httpx2.Response(status, headers=kept, content=body, request=request)


def post(where, path, body, headers):
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()


def tell(told):
    status, _, _ = post(TOLD, TOLD.path, json.dumps(told), {"content-type": "application/json"})
    assert status == 200


through = Through()


def send_with_the_key():
    """Clients give the gateway's key, whatever key a test gave them."""
    plain, awaited = httpx2.Client.send, httpx2.AsyncClient.send

    def send(self, request, **more):
        through.give_key(request)
        return plain(self, request, **more)

    async def send_async(self, request, **more):
        through.give_key(request)
        return await awaited(self, request, **more)

    httpx2.Client.send, httpx2.AsyncClient.send = send, send_async


def answer_mocks_by_the_gateway(router):
    plain, awaited = router.handler, router.async_handler

    def handler(self, request):
        through.reached -= through.asks_the_gateway(request)
        response = plain(self, request)
        protocol = through.protocol_of(request, response)
        if protocol is None:
            return response
        request.read()
        return through.forward(request, response, protocol, response.read())

    async def async_handler(self, request):
        through.reached -= through.asks_the_gateway(request)
        response = await awaited(self, request)
        protocol = through.protocol_of(request, response)
        if protocol is None:
            return response
        await request.aread()
        return through.forward(request, response, protocol, await response.aread())

    router.handler, router.async_handler = handler, async_handler


def pytest_configure(config):
    send_with_the_key()
    try:
        from tests.respx2.router import Router  # openai has a copy of its own
    except ImportError:
        from respx.router import Router
    answer_mocks_by_the_gateway(Router)


def pytest_runtest_logstart(nodeid, location):
    through.reached, through.ended = 0, {}


def pytest_runtest_logreport(report):
    through.ended[report.when] = report
    if report.when != "teardown":
        return
    failed = [each for each in through.ended.values() if each.failed]
    skipped = [each for each in through.ended.values() if each.skipped]
    ended = "failed" if failed else "skipped" if skipped else "passed"
    why = (failed[0].longreprtext[-1500:] if failed else "") if not skipped else str(skipped[0].longrepr[-1])
    line = {"test": report.nodeid, "ended": ended, "reached": through.reached, "why": why}
    with open(os.environ["EDGE_REPORT"], "a") as out:
        out.write(json.dumps(line) + "\n")
