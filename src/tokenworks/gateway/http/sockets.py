"""The operating system's view of a connection."""

import asyncio
import fcntl
import struct
import termios


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the client has not acknowledged, the socket's send buffer included.

    The transport's own buffer is not enough: the system takes more of it only when a third of the send buffer is free, and a
    slow reader needs longer than a time-out for a third of four megabytes.
    """
    size = transport.get_write_buffer_size()
    if not size:
        return 0
    number: int = transport.get_extra_info("socket").fileno()
    if number < 0:
        return size
    (queued,) = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0" * 4))
    return size + int(queued)
