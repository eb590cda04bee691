"""The demo's processes: commands as an operator runs them, and servers that end with the demo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tokenworks.kernel import Unavailable

WAIT_S: Final = 60.0


class Demo:
    """The demo's processes and what it has learned so far: addresses, the key, request ids."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.processes: list[subprocess.Popen[str]] = []
        self.spawning = False
        self.ended_by: int | None = None
        self.base = ""
        self.admin = ""
        self.model_url = ""
        self.key = ""
        self.finished: list[str] = []
        self.interrupted = 0

    def tokenworks(self, *args: str) -> dict[str, object]:
        """Run one command of the CLI, as an operator runs it. Returns its JSON. Raises `Unavailable` where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "tokenworks", "--data-dir", str(self.data_dir), *args, "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"tokenworks {' '.join(args[:2])} failed: {done.stderr.strip()}")
        result: dict[str, object] = json.loads(done.stdout)
        return result

    def spawn(self, *args: str) -> str:
        """Start a process and wait for the line that it prints when it is ready. Returns the line. Raises `Unavailable`."""
        log = (self.data_dir / "demo.log").open("a")
        # A signal that arrives meanwhile is handled once the process is in the list, so that it is stopped, too.
        self.spawning = True
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            # The demo has no load balancer that needs a grace time.
            env=os.environ | {"TOKENWORKS_DRAIN_GRACE_S": "0"},
        )
        self.processes.append(process)
        self.spawning = False
        if self.ended_by is not None:
            raise SystemExit(128 + self.ended_by)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise Unavailable(f"{args[0]} did not start; {self.data_dir / 'demo.log'} says why")
        return line

    def end(self, number: int, _frame: object = None) -> None:
        """The handler of signals: exit, through the clean-up of the running code. Further signals change nothing."""
        already, self.ended_by = self.ended_by is not None, number
        if not already and not self.spawning:
            raise SystemExit(128 + number)

    def stop(self) -> None:
        # From here on signals change nothing.
        self.ended_by = self.ended_by or 0
        for process in reversed(self.processes):
            if process.stdin is not None:
                process.stdin.close()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not ready():
        if time.monotonic() > deadline_s:
            raise Unavailable(f"waited {WAIT_S:.0f} s for {what}")
        time.sleep(0.05)


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0
