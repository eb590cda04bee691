"""Behind trusted proxies: only they are served, and only what they say of the client is taken."""

import contextlib

from tests.support.server import Server


def request(server, head):
    sock = server.open()
    sock.sendall(head)
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    sock.close()
    return data


def test_a_peer_that_is_no_proxy_is_not_served(tmp_path):
    with Server(tmp_path, trusted_proxies="10.0.0.0/8, fd00::/8") as server:
        sock = server.open()
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert sock.recv(100) == b"", "closed without a word"
        sock.close()


def test_a_trusted_proxy_is_served(tmp_path):
    with Server(tmp_path, trusted_proxies="127.0.0.0/8") as server:
        assert request(server, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )


def test_networks_are_checked(tmp_path):
    server = Server(tmp_path, trusted_proxies="10.0.0.0/99")
    done = server.cli("config", "show", check=False)
    assert done.returncode == 1
    assert "trusted_proxies" in done.stderr
