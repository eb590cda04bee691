"""The port of the carrier's real-name check: a file, HTTP, and a dev environment's."""

import hashlib
import http.server
import json
import socket
import threading

import pytest

from tests.support.receiver import Receiver
from tokenworks.app.ports import real_name as module
from tokenworks.app.ports.real_name import FileCheck, HttpCheck, real_name_check
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, Unavailable

WHO = ("+8613800000001", "张小明", "11010519491231002X")


def digest(number):
    return hashlib.sha256(number.encode()).hexdigest()


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (f"+8613800000001,张小明,{digest(WHO[2])}", "verified"),
        (f"+8613800000001,李雷,{digest(WHO[2])}", "refused"),
        (f"+8613800000001,张小明,{digest('other')}", "refused"),
        (f"+8613800000002,张小明,{digest(WHO[2])}", "pending"),
        ("", "pending"),
        ("+8613800000001", "pending"),
    ],
)
def test_a_file_of_holders(tmp_path, row, answer):
    path = tmp_path / "holders.csv"
    path.write_text(f"phone,name,sha256\r\n{row}\r\n", encoding="utf-8-sig", newline="")
    settings = load_settings({"data_dir": str(tmp_path), "real_name_check": path.as_uri()}).settings
    assert real_name_check(settings)(*WHO) == answer


def test_a_file_that_can_not_be_read(tmp_path):
    with pytest.raises(Unavailable):
        FileCheck(tmp_path / "none.csv")(*WHO)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unavailable):
        FileCheck(tmp_path / "bad.csv")(*WHO)


class Carrier(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, asked))
        status, body = self.server.says
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_args):
        pass


@pytest.fixture
def carrier():
    server = http.server.HTTPServer(("127.0.0.1", 0), Carrier)
    server.asked, server.says = [], (200, b"{}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_over_http(carrier):
    check = HttpCheck(f"http://127.0.0.1:{carrier.server_port}/check")
    for state in ("verified", "pending", "refused"):
        carrier.says = (200, json.dumps({"state": state}).encode())
        assert check(*WHO) == state
    assert carrier.asked[0] == ("/check", dict(zip(("phone", "name", "id_number"), WHO, strict=True)))
    for says in (
        (200, b'{"state": "maybe"}'),
        (200, b"[]"),
        (200, b"\xff"),
        (500, b'{"state": "verified"}'),
        (302, b""),
    ):
        carrier.says = says
        with pytest.raises(Unavailable) as refused:
            check(*WHO)
        assert not any(text in str(refused.value) for text in WHO)
    # What names a person goes nowhere else.
    assert {path for path, _ in carrier.asked} == {"/check"}


def test_without_one(tmp_path):
    settings = load_settings({"data_dir": str(tmp_path)}).settings
    assert real_name_check(settings)(*WHO) == "verified"
    settings = load_settings({"data_dir": str(tmp_path), "environment": "prod"}).settings
    with pytest.raises(Unavailable, match="real_name_check"):
        real_name_check(settings)(*WHO)
    with pytest.raises(Invalid, match="real_name_check"):
        load_settings({"data_dir": str(tmp_path), "real_name_check": "ftp://carrier"})


def test_an_answer_in_drops_is_over_when_its_time_is(monkeypatch):
    """Each byte is in time, all of them are not: whoever asks has a connection of the control plane meanwhile."""
    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    with Receiver() as carrier:
        carrier.drips.set()
        with pytest.raises(Unavailable, match="does not answer"):
            HttpCheck(carrier.url)(*WHO)


def test_what_is_no_http_is_no_answer():
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        peer, _ = listener.accept()
        peer.recv(65_536)
        peer.sendall(b"SMTP 220 hello\r\n\r\n")
        peer.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(Unavailable, match="does not answer"):
        HttpCheck(f"http://127.0.0.1:{listener.getsockname()[1]}")(*WHO)
    thread.join()
    listener.close()
