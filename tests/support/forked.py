"""`tokenworks serve` as a fork of a process that has its code loaded, with what a test needs of a `subprocess.Popen`.

Importing the server takes two seconds of CPU, and most tests of end to end start one. The fork shows its own arguments in
/proc/PID/cmdline, has a session of its own, and its parent reports how it ended. Only what runs this checkout's code as it is run
here is forked; everything else, and each restart by `exec`, is an interpreter of its own.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# What an interpreter reads when it starts: with any of these a server has to have its own.
AT_START = ("PYTHON", "LD_", "MALLOC_", "TOKENWORKS_COMPILE")
NUMBER = 4


def can_fork(python, environ):
    """Whether a server with this interpreter and environment runs as a fork of ours would."""
    return python == sys.executable and all(
        environ.get(name) == os.environ.get(name)
        for name in {*environ, *os.environ}
        if name.startswith(AT_START)
    )


class Forked:
    """A server process that the fork server has begun. `args`: what its command line says."""

    def __init__(self, path, args, environ, folder, stderr):
        self.args = args
        self.returncode = None
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading)
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        request = json.dumps([args, environ, str(folder), True]).encode()
        with Path(os.devnull).open("rb") as nothing:
            socket.send_fds(
                self._sock, [len(request).to_bytes(4, "big")], [nothing.fileno(), writing, stderr.fileno()]
            )
        os.close(writing)
        self._sock.sendall(request)
        self.pid = self._number()
        assert self.pid

    def _number(self):
        content = b""
        while len(content) < NUMBER:
            found = self._sock.recv(NUMBER - len(content))
            if not found:
                return None  # the fork server has gone, and with it whoever knew
            content += found
        return int.from_bytes(content, "big", signed=True)

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            deadline = None if timeout is None else time.monotonic() + timeout
            left = None if deadline is None else max(0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            status = self._number()
            self.returncode = -signal.SIGKILL if status is None else status
            self._sock.close()
        return self.returncode

    def send_signal(self, sig):
        # Its parent reaps it at once, maybe between these two lines.
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def show_as(arguments):
    """Have /proc/PID/cmdline of this process say these arguments: they are written over those that it was run with."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    text = b"".join(part.encode() + b"\0" for part in arguments)[: end - begin]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))
