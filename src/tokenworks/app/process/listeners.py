"""The sockets that a server listens on: bound by the supervisor, handed to its children, kept over a reload."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

from tokenworks.app.settings import parse_address
from tokenworks.kernel import Unavailable

BACKLOG: Final = 4096


def bind(address: str) -> socket.socket:
    """A listening TCP socket. Raises `Unavailable` where the address is taken."""
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise Unavailable(
            f"can't listen on {address}: {error.strerror}; choose another with --listen, --admin-listen or --staff-listen"
        ) from None
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def bind_unix(path: Path) -> socket.socket:
    """A listening Unix socket of mode 0600."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        raise Unavailable(f"{path}: {error}; a shorter data directory may help") from None
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def adopt(fd: int) -> socket.socket:
    """A listening socket that this process opened before an exec."""
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def refuse_connections(listener: socket.socket) -> None:
    """Shut the socket down in every process that holds it: a new connection is refused at once, and does not wait in the queue of a
    server that ends.
    """
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def shown_address(sock: socket.socket) -> str:
    """HOST:PORT, or [V6]:PORT."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


__all__ = ["adopt", "bind", "bind_unix", "refuse_connections", "shown_address"]
