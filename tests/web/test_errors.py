"""A defect of ours: what is logged of it, and what the client is told."""

import asyncio
import contextlib
import json

import pytest

from tokenworks.app.http_app import make_api, make_staff_app
from tokenworks.web import errors
from tokenworks.web.staff_door import StaffDoor


class Lines:
    def __init__(self):
        self.written = []

    def error(self, event, **more):
        self.written.append({"event": event, **more})


@contextlib.contextmanager
def defective():
    raise RuntimeError("s3cret")
    yield


@pytest.mark.parametrize(
    ("app", "path", "accept"),
    [
        (
            make_staff_app(defective, StaffDoor("staff", frozenset(), needs_code=True)),
            "/ops/enrol",
            b"text/html",
        ),
        (make_api(defective, lambda *_: None), "/api/operations/staff", b"*/*"),
    ],
)
def test_a_defect_has_its_line_before_its_answer(monkeypatch, app, path, accept):
    """Else who sees the answer, and looks, finds nothing."""
    log, sent = Lines(), []
    monkeypatch.setattr(errors, "log", log)

    async def send(message):
        sent.append((message, len(log.written)))

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"host", b"127.0.0.1"), (b"x-forwarded-for", b"127.0.0.1"), (b"accept", accept)]
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"link=twl_x", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http", "root_path": "", "http_version": "1.1",
    }  # fmt: skip
    with pytest.raises(RuntimeError):
        asyncio.run(app(scope, receive, send))
    ((start, before), (body, _)) = sent
    assert start["status"] == 500 and before == 1
    assert json.loads(body["body"])["title"] == "Failed" and b"s3cret" not in body["body"]
    (line,) = log.written
    assert (line["event"], line["method"], line["route"]) == ("request.failed", "GET", path)
    assert isinstance(line["exc_info"], RuntimeError) and "twl_x" not in str(line)
