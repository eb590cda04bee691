"""How PostgreSQL hands over the files of its write-ahead log, and gets them back: it runs a shell script, which asks the guardian.

The server runs as a user who has access neither to this Python environment nor to the place of the backups (`embedded.py`), so the
script does not need them: it writes a line into a pipe, and waits for a file with the result. Where the guardian does not answer, the
script fails after `ARCHIVE_WAIT_S`, and PostgreSQL tries again.

In a recovery a failure has to differ from the end of the log: after an ordinary failure of `restore_command` PostgreSQL takes the log
for complete and opens the database. An exit status above 125 ends the recovery.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ARCHIVE_WAIT_S: Final = 120
RESTORE_WAIT_S: Final = 900
CONFIGURE: Final = "configure"
_ON: Final = "on"
_ASK: Final = "ask"
_LINE_BYTES_MAX: Final = 200
NAME: Final = re.compile(r"[0-9A-F]{24}(\.[0-9A-F]{8}\.backup|\.partial)?|[0-9A-F]{8}\.history")
_SCRIPT: Final = f"""#!/bin/sh
# archive NAME, or restore NAME PATH: asks the process of Tokenworks that reads `{_ASK}` in this folder.
at=$(dirname "$0")
if [ "$1" = archive ]; then
    [ -e "$at/{_ON}" ] || exit 0
    failed=1 tries={ARCHIVE_WAIT_S * 10}
else
    failed=255 tries={RESTORE_WAIT_S * 10}
fi
[ -p "$at/{_ASK}" ] || exit $failed
rm -f "$at/$2.done" "$at/$2.failed" "$at/$2.missing"
# For reading, too: then it waits for nobody.
echo "$1 $2" 1<>"$at/{_ASK}" || exit $failed
while [ $tries -gt 0 ]; do
    if [ -e "$at/$2.done" ]; then
        rm -f "$at/$2.done"
        [ "$1" = archive ] || mv "$at/$2.file" "$3" || exit $failed
        exit 0
    fi
    if [ -e "$at/$2.missing" ]; then
        rm -f "$at/$2.missing"
        exit 1
    fi
    if [ -e "$at/$2.failed" ]; then
        cat "$at/$2.failed" >&2
        rm -f "$at/$2.failed"
        exit $failed
    fi
    tries=$((tries - 1))
    sleep 0.1
done
echo "tokenworks: no answer about $2 in time" >&2
exit $failed
"""


class FileMissing(Exception):
    """There is no file of that name: the log ends before it."""


class LogHandover:
    """The script and its pipe, in a folder of the server's user. `own` gives a path to that user, with a mode."""

    def __init__(self, folder: Path, own: Callable[[Path, int], None]) -> None:
        self.folder = folder
        self._own = own

    def prepare(self) -> None:
        """Write the script of this release, and make its pipe and its folder."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own(self.folder, 0o700)
        for path in self.folder.iterdir():
            if path.name != _ASK:
                path.unlink()
        if not (self.folder / _ASK).exists():
            os.mkfifo(self.folder / _ASK, 0o600)
        (self.folder / "ask.sh").write_text(_SCRIPT)
        self._own(self.folder / _ASK, 0o600)
        self._own(self.folder / "ask.sh", 0o700)

    def command(self, what: str) -> str:
        """The command line for `archive_command` or `restore_command`."""
        script = shlex.quote(str(self.folder / "ask.sh")).replace("%", "%%")
        return f"{script} archive %f" if what == "archive" else f"{script} restore %f %p"

    def switch(self, *, on: bool) -> None:
        """Switch archiving on or off. While it is off, the script lets PostgreSQL discard its old log files."""
        if on:
            (self.folder / _ON).write_text("")
            self._own(self.folder / _ON, 0o600)
        else:
            (self.folder / _ON).unlink(missing_ok=True)

    def ask(self, line: str) -> bool:
        """Write a line to the process that reads the pipe; False where none does."""
        try:
            file = os.open(self.folder / _ASK, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)
        return True

    def lines(self) -> Iterator[str]:
        """The lines of the pipe, for ever. The pipe is opened for writing, too, so that reading it never ends."""
        file = os.open(self.folder / _ASK, os.O_RDWR | os.O_CLOEXEC)
        rest = b""
        while True:
            rest += os.read(file, 65_536)
            *lines, rest = rest.split(b"\n")
            if len(rest) > _LINE_BYTES_MAX:
                rest = b""
            for line in lines:
                yield line.decode("ascii", "replace")

    def answer(self, line: str, do: Callable[[str], bytes | None]) -> None:
        """Do what a line asks for, and write the result for the script. `do` is called with the file's name; for a restore it returns the
        file's content.
        """
        _, _, name = line.partition(" ")
        if not NAME.fullmatch(name):
            return
        try:
            content = do(name)
        except FileMissing:
            self._say(f"{name}.missing", b"")
        except (
            Exception
        ) as error:  # whatever it is, PostgreSQL keeps the file and asks again; its log says why
            text = f"tokenworks: {name}: {error or type(error).__name__}".splitlines()[0]
            self._say(f"{name}.failed", f"{text}\n".encode())
        else:
            if content is not None:
                self._say(f"{name}.file", content)
            self._say(f"{name}.done", b"")

    def _say(self, name: str, content: bytes) -> None:
        half = self.folder / f"{name}.new"
        half.write_bytes(content)
        self._own(half, 0o600)
        half.rename(self.folder / name)
