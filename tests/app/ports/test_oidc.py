"""The HTTP of an OpenID provider: documents too large, answers too slow, redirects; the client's secret."""

import contextlib
import socket
import threading
import time

import pytest

from tokenworks.app.ports import oidc
from tokenworks.app.ports.oidc import DOCUMENT_BYTES_MAX, SECRET_BYTES_MAX, client_secret, fetch
from tokenworks.kernel import Unavailable
from tokenworks.trust import OidcRefused


@contextlib.contextmanager
def answering(serve):
    """The URL of a server that answers one connection by `serve(socket)`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                sock.recv(10_000)
                serve(sock)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
    listener.close()
    thread.join(10)


def whole(body, status="200 OK", headers=""):
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return lambda sock: sock.sendall(head.encode() + body)


def test_a_document_is_fetched_whole_or_not_at_all():
    with answering(whole(b"x" * DOCUMENT_BYTES_MAX)) as url:
        assert len(fetch("GET", url, None, {})) == DOCUMENT_BYTES_MAX
    with (
        answering(whole(b"x" * (DOCUMENT_BYTES_MAX + 1))) as url,
        pytest.raises(Unavailable, match="more than"),
    ):
        fetch("GET", url, None, {})


def test_a_document_without_an_end_is_left():
    def serve(sock):
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"x" * 65_536)

    with answering(serve) as url, pytest.raises(Unavailable, match="more than"):
        fetch("GET", url, None, {})


def test_an_answer_byte_by_byte_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(oidc, "ANSWER_S", 0.3)
    stopped = threading.Event()

    def serve(sock):
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" * 99:
                if stopped.wait(0.05):
                    return
                sock.sendall(bytes([byte]))

    with answering(serve) as url:
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="too long"):
            fetch("GET", url, None, {})
        assert time.monotonic() - began_s < 5
        stopped.set()


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "401 Unauthorized", "500 Oops"])
def test_no_redirect_is_followed_and_no_error_is_shown(status):
    with answering(whole(b"eyJsecret", status, "Location: http://169.254.169.254/\r\n")) as url:
        with pytest.raises(Unavailable) as refused:
            fetch("POST", url, b"code=s3cret", {})
        assert "eyJ" not in str(refused.value) and "s3cret" not in str(refused.value)


def test_a_code_that_the_provider_refuses_is_not_the_providers_absence():
    with answering(whole(b'{"error":"invalid_grant"}', "400 Bad Request")) as url:
        with pytest.raises(OidcRefused) as refused:
            fetch("POST", url, b"code=s3cret", {})
        assert "s3cret" not in str(refused.value)
    with answering(whole(b"", "400 Bad Request")) as url, pytest.raises(Unavailable):
        fetch("GET", url, None, {})


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://127.0.0.1:1/", "http://nowhere.invalid/"])
def test_what_is_not_there_is_said_so(url):
    with pytest.raises(Unavailable, match="identity provider"):
        fetch("GET", url, None, {})


def test_the_client_secret_is_a_private_line(tmp_path):
    assert client_secret(tmp_path) is None
    path = tmp_path / "oidc-client-secret"
    for content in (b"", b"\n", b"a\x00b", b"x" * (SECRET_BYTES_MAX + 1)):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(Unavailable, match="oidc-client-secret"):
            client_secret(tmp_path)
    path.write_bytes(b"s3cret\n")
    assert client_secret(tmp_path) == "s3cret"
