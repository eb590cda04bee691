"""Runs `tokenworks` as a fork of a process that has its code loaded: importing it takes a second for each command otherwise.

`python -m tests.support.forkserver SOCKET` serves until its standard input ends; `folder_with_tokenworks` has what stands on the path. A
command has the arguments, environment, working directory and standard streams of its caller. `demo`, and `serve` where a page of the
runbook runs it, are interpreters of their own; the servers of tests are forks (`forked`).
"""

import atexit
import functools
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from tests.support.environ import for_release, without_settings
from tests.support.forked import NUMBER, show_as

ROOT = Path(__file__).parents[2]
WIDTH = "200"
ROOM = "-" * 1000
STREAMS = 3
CLIENT = """#!{python} -IS
import json, os, socket, sys
arguments = sys.argv[1:]
if "serve" in arguments or "demo" in arguments:
    os.execv("{python}", ["{python}", "-m", "tokenworks", *arguments])
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("{path}")
    request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(sock, [len(request).to_bytes(4, "big")], [0, 1, 2])
    sock.sendall(request)
    code = sock.recv(1)
sys.exit(code[0] if code else 70)
"""


@functools.cache
def folder_with_tokenworks(source=ROOT / "src"):
    """A folder with `tokenworks` in it, as an installation of the release whose code lies in `source` has it on the path. It lasts as
    long as this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="tokenworks-test-bin-"))
    path = folder / "forkserver.sock"
    environ = without_settings() if source == ROOT / "src" else for_release(without_settings())
    process = subprocess.Popen(
        # The dashes are room for the arguments that a server shows (`forked.show_as`).
        [sys.executable, "-m", "tests.support.forkserver", str(path), ROOM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=environ | {"PYTHONPATH": f"{source}:{ROOT}", "COLUMNS": WIDTH},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"

    def end():
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    command = folder / "tokenworks"
    command.write_text(CLIENT.format(python=sys.executable, path=path))
    command.chmod(0o755)
    return folder


def entry():
    """`main` of the release on the path: the command line of releases before 0054 (docs/decisions) was in `app`."""
    try:
        from tokenworks.cli.main import main
    except ModuleNotFoundError:
        from tokenworks.app.cli import main
    return main


def load():
    """Import what commands need. Releases before 0054 did with their entry."""
    entry()
    try:
        from tokenworks.app.bootstrap import load_services
    except ImportError:
        return
    import tokenworks.app.doctor
    import tokenworks.app.tables
    import tokenworks.cli.opening
    from tokenworks.app.edge import commands
    from tokenworks.cli.main import cli

    load_services()
    list(commands(cli))
    # What a server needs beside them.
    import tokenworks.app.http_app
    import tokenworks.app.process.recorder
    import tokenworks.app.process.supervisor
    import tokenworks.app.process.worker
    import tokenworks.gateway.plane  # noqa: F401


def run(arguments, environ, folder, streams):
    """The exit code of a command. Called in a process of its own."""
    main = entry()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = ["tokenworks", *arguments]
    code = 0
    try:
        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code & 0xFF


def serve(sock):
    """Serve one caller: in a child that waits for the grandchild in which the command runs."""
    head, streams, _, _ = socket.recv_fds(sock, 4, STREAMS)
    size, request = int.from_bytes(head, "big"), b""
    while len(request) < size:
        request += sock.recv(size - len(request))
    arguments, environ, folder, *is_server = json.loads(request)
    pid = os.fork()
    if pid == 0:
        sock.close()
        if is_server:
            os.setsid()
            sys.orig_argv[:] = [sys.executable, "-m", "tokenworks", *arguments]
            show_as(sys.orig_argv)
        code = run(arguments, environ, folder, streams)
        os._exit(code)
    if is_server:
        for stream in streams:
            os.close(stream)
        sock.sendall(pid.to_bytes(NUMBER, "big"))
    _, status = os.waitpid(pid, 0)
    if is_server:
        sock.sendall(os.waitstatus_to_exitcode(status).to_bytes(NUMBER, "big", signed=True))
        os._exit(0)
    sock.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
    os._exit(0)


def main(path):
    load()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    gc.freeze()
    print("ready", flush=True)

    def parent_left():
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=parent_left, daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children's ends are nobody's business
    while True:
        sock, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            serve(sock)
        sock.close()


if __name__ == "__main__":
    main(sys.argv[1])
