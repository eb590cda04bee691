"""A reader's shell: the fenced blocks of a document, and one bash that runs them in their order, as they stand."""

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.support.environ import without_settings
from tests.support.forkserver import folder_with_tokenworks
from tests.support.server import ROOT

TIMEOUT_S = 300
LANGUAGES = ("sh", "python")
# What a document shows and nobody types.
SHOWN = {"mermaid", "yaml", "text", "toml", "json"}


class Block(NamedTuple):
    path: Path
    section: str
    line: int
    language: str
    code: str

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line} ({self.section}):\n{self.code}"


def blocks(path):
    """Every block that a reader runs, in order. Raises `AssertionError` on one without a language, or without an end."""
    found, section, block, began, language = [], "", None, 0, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if block is not None:
            if line == "```":
                if language in LANGUAGES:
                    found.append(Block(path, section, began, language, "\n".join(block) + "\n"))
                block = None
            else:
                block.append(line)
        elif line.startswith("```"):
            language = line.removeprefix("```")
            assert language in LANGUAGES or language in SHOWN, (
                f"{path}:{number}: a block of the language {language!r}"
            )
            block, began = [], number + 1
        elif line.startswith("#"):
            section = line.lstrip("# ")
    assert block is None, f"{path}: the block that begins in line {began} has no end"
    return found


def indented(path):
    """Lines of code that are indented in place of fenced, outside of lists: nothing runs them."""
    fenced, found = False, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fenced ^= line.startswith("```")
        if not fenced and re.match(r"    [a-z.]", line):
            found.append(f"{path.name}:{number}: {line}")
    return found


@functools.cache
def path_with_tokenworks():
    """A folder with `tokenworks`, `python` and `python3` in it, as an installation has them on the path."""
    folder = folder_with_tokenworks()
    for name, text in (
        ("python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
        ("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


class Prompt:
    """One bash in a folder. What a block exports, sets or starts is there for the next one; the first that fails ends it."""

    def __init__(self, folder, environ, changes=()):
        self.folder = folder
        # Text of the blocks that a test has to have otherwise: (what stands there, what is run).
        self.changes = dict(changes)
        self._scratch = Path(tempfile.mkdtemp(prefix="tokenworks-test-prompt-"))
        clean = without_settings()
        self._environ = clean | environ | {
            "PATH": f"{path_with_tokenworks()}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT / 'src'}",
            "COLUMNS": "200",
        }  # fmt: skip
        self._count = 0

    def __enter__(self):
        self._bash = subprocess.Popen(
            ["bash", "--norc", "-s"], cwd=self.folder, env=self._environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1, start_new_session=True,
        )  # fmt: skip
        self._say("set -euo pipefail")
        return self

    def __exit__(self, kind, *_):
        # What was started in the background is ended in order, and waited for.
        with contextlib.suppress(OSError):
            self._say('set +e; [ -z "$(jobs -p)" ] || kill $(jobs -p); wait; exit')
            self._bash.stdin.close()
        self._bash.wait(TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):  # where a block failed, bash has left them
            os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.stdout.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _say(self, line):
        self._bash.stdin.write(line + "\n")

    def let(self, **values):
        """Shell variables that a reader fills in."""
        for name, value in values.items():
            assert "'" not in str(value)
            self._say(f"export {name}='{value}'")

    def run(self, block):
        """What a block prints, both streams."""
        code = block.code
        for there, run in self.changes.items():
            code = code.replace(there, run)
        self._count += 1
        script, output = (
            self._scratch / f"{self._count}.{block.language}",
            self._scratch / f"{self._count}.out",
        )
        script.write_text(code)
        how = f"source {script}" if block.language == "sh" else f"python {script}"
        self._say(f"{how} >{output} 2>&1 </dev/null; echo ended")
        ready, _, _ = select.select([self._bash.stdout], [], [], TIMEOUT_S)
        line = self._bash.stdout.readline() if ready else "no end"
        text = output.read_text() if output.exists() else ""
        assert line == "ended\n", (
            f"{block}\n{'failed' if ready else f'did not end within {TIMEOUT_S} s'}:\n{text[-5000:]}"
        )
        return text
