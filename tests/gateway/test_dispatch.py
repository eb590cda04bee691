"""A request for a compaction: nothing of its body is read before its key is known."""

from types import SimpleNamespace

import pytest

from tests.gateway.request.support import Worker
from tests.support.builds import on_sources
from tokenworks.gateway.dispatch import Dispatch
from tokenworks.gateway.http.head import parse_head
from tokenworks.gateway.keys import KeyEntry

pytestmark = on_sources

GOOD, BAD = b'{"model":"m","input":"hi"}', b'{"model":'


class Conn:
    transport, keep_alive, address = object(), True, "192.0.2.9"

    def __init__(self):
        self.refused = []

    def refuse(self, refusal, *_):
        self.refused.append(refusal.code)


class Compact:
    def __init__(self, body):
        settings = {"cors_origins": "*", "proxy_networks": (), "control_body_bytes_max": 1000, "requests_max": 10, "key_max_stale_s": 60}  # fmt: skip
        worker = Worker(**settings)
        self.asked, self.begun = [], []
        worker.shared.database_ok_s = worker.loop.now_s
        worker.shared.keys = SimpleNamespace(
            lacking=(), foreign=False, get=lambda *_: None, well_formed=lambda _: True, look_up=self.look_up
        )
        running = SimpleNamespace(begin=self.begin)
        dispatch = Dispatch(
            worker.shared, None, running, tls=False, not_ready=list, certificate_words=lambda: None
        )
        head = parse_head(b"POST /v1/responses/compact HTTP/1.1\r\nhost: x\r\nauthorization: Bearer twk_1\r\n\r\n", 100)  # fmt: skip
        self.conn = Conn()
        dispatch.after_head(self.conn, head)
        dispatch.dispatch(self.conn, head, body)

    def look_up(self, text, answered):
        self.asked.append(answered)
        return True

    def begin(self, conn, head, body, protocol, now_s, *, free):
        self.begun.append((body, protocol, free))
        return SimpleNamespace(identified=None, refuse=None)

    def key_is(self, *, known):
        entry = KeyEntry("k", b"k")
        entry.known = known
        self.asked[0](entry)


@pytest.mark.parametrize("body", [GOOD, BAD])
def test_the_key_is_looked_up_before_the_body_is_read(body):
    request = Compact(body)
    assert len(request.asked) == 1 and not request.conn.refused and not request.begun
    request.key_is(known=False)
    assert request.conn.refused == ["invalid_api_key"] and not request.begun


def test_with_a_known_key_the_body_gets_its_trigger_or_is_refused():
    request = Compact(BAD)
    request.key_is(known=True)
    assert request.conn.refused == ["bad_request"] and not request.begun
    request = Compact(GOOD)
    request.key_is(known=True)
    ((body, protocol, free),) = request.begun
    assert body.count(b"compaction_trigger") == 1 and (protocol, free) == ("responses", False)
