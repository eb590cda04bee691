"""The runbook as tests read it: its pages, their command blocks, and a shell that runs them as they stand."""

import contextlib
import io
import os
import re
import select
import signal
import socket
import subprocess
import threading
from functools import cache
from typing import NamedTuple

from tests.support.forkserver import WIDTH, folder_with_tokenworks
from tests.support.server import ROOT

RUNBOOK = ROOT / "docs/RUNBOOK.md"
TIMEOUT_S = 300
# What stands before the first page.
BEGINNING = "Runbook"

# Pages without a block, each with its reason. A page that has one is run by a scenario, and is not in here.
WITHOUT_BLOCKS = {
    "What to watch": "a table of metrics and pages",
    "The embedded database hangs": "ends a process that a message names",
    "Fail-over and restore": "a host settles by itself",
    "A worker's memory is full": "settings, which a restart takes",
    "A worker ends": "nothing is to be done",
    "A command waits": "a session that a message names is looked at and ended",
    "The archive is behind": "a disk is mounted, or given room",
    "A slow journal": "a disk of its own",
}

# Blocks that nobody types, by page and first line: each with its reason. They are fenced as `text`.
NOT_RUN = {
    ("Backup and restore", "access_key_id = …"): "what a file has in it",
    ("Restarting a host", "[Service]"): "a unit of systemd, which has to be the first process of its machine",
}


class Block(NamedTuple):
    page: str
    line: int
    code: str

    def __str__(self):
        return f"docs/RUNBOOK.md:{self.line} ({self.page}):\n{self.code}"


@cache
def pages(path=RUNBOOK, language="sh"):
    """The blocks of each page that are of a language, in order; a page without any has none."""
    found, title, block, began = {BEGINNING: []}, BEGINNING, None, 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if block is not None:
            if line == "```":
                found[title].append(Block(title, began, "\n".join(block) + "\n"))
                block = None
            else:
                block.append(line)
        elif line == f"```{language}":
            block, began = [], number + 1
        elif line.startswith("## "):
            title = line[3:]
            assert title not in found, f"two pages of the name {title}"
            found[title] = []
    assert block is None, f"a block that begins in line {began} has no end"
    return found


SCENARIOS = {}
"""By page: the test that runs it."""


def scenario(page):
    """Marks the test that runs the blocks of a page, all of them in their order."""

    def marked(test):
        assert page not in SCENARIOS, f"{page} has two scenarios"
        SCENARIOS[page] = f"{test.__module__}.{test.__name__}"
        return test

    return marked


class Shell:
    """Where a reader types: a host's environment and settings, in a folder of the reader's own. `source`: the code of the release
    that is installed there; it may be a link, which `serve` goes through.
    """

    def __init__(self, server, folder, source=ROOT / "src"):
        self.folder = folder
        self.environ = server.environ() | {
            "TOKENWORKS_DATA_DIR": str(server.data_dir),
            "PATH": f"{folder_with_tokenworks(source.resolve())}:{os.environ['PATH']}",
            "PYTHONPATH": str(source),
            "COLUMNS": WIDTH,
        }

    def page(self, title):
        return Page(self, title)

    def run(self, block, code=0, **values):
        """What a block prints, both streams; `values` are the shell variables that a reader fills in."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code], env=self.environ | {k: str(v) for k, v in values.items()}, cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == code, f"{block}\nended with {done.returncode}, not {code}:\n{done.stdout}"
        return done.stdout


class Page:
    """The blocks of one page, one after the other. At the end of the context all of them have been run."""

    def __init__(self, shell, title):
        self._shell, self._title = shell, title
        self._left = list(pages()[title])

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert not self._left, f"blocks without a scenario: {[str(block) for block in self._left]}"

    def run(self, words, code=0, **values):
        """Run the next block, which has these words in it."""
        assert self._left, f"{self._title} has no further block: {words}"
        block = self._left.pop(0)
        assert words in block.code, f"the next block has no {words!r}: {block}"
        return self._shell.run(block, code, **values)

    def at(self, shell):
        """What follows is typed at another host."""
        self._shell = shell


class Adopted:
    """A server that a block started: it is nobody's child here."""

    def __init__(self, pid):
        self.pid, self._end = pid, os.pidfd_open(pid)
        self.stdout = io.StringIO()

    def poll(self):
        """0 once it has ended: its code is not known."""
        return 0 if select.select([self._end], [], [], 0)[0] else None

    def wait(self, timeout_s):
        if not select.select([self._end], [], [], timeout_s)[0]:
            raise TimeoutError(f"process {self.pid} has not ended")
        return 0

    def send_signal(self, number):
        signal.pidfd_send_signal(self._end, number)


@contextlib.contextmanager
def started_by_a_block(server):
    """What a block of the context starts as this server is its process from then on, whatever becomes of the block."""
    file = server.data_dir / "serve.pid"
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            if server.process is None or server.process.pid != pid:
                server.process = Adopted(pid)
        server.public, server.admin = server.env["TOKENWORKS_LISTEN"], server.env["TOKENWORKS_ADMIN_LISTEN"]
        server.host, port = server.public.rsplit(":", 1)
        server.port = int(port)


@contextlib.contextmanager
def reaped(process):
    """A process that somebody else ends is gone then, as one of an init's is, and no zombie that `tail --pid` waits for."""
    waiting = threading.Thread(target=process.wait)
    waiting.start()
    yield
    waiting.join()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def commands(text):
    """(line, words) of every `tokenworks …` in the code of a text, in blocks and in inline code."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
            continue
        pieces = [line] if fenced or line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        for piece in pieces:
            for said in re.findall(
                r"(?:^|[\s(;&|$])tokenworks((?: +(?:\"[^\"]*\"|'[^']*'|[^\s;&|<>)#\"']+))+)", piece
            ):
                found.append((number, re.findall(r"\"[^\"]*\"|'[^']*'|\S+", said)))
    return found
