"""Runs `tokenworks` as a fork of a process that has its code already: an interpreter of its own takes a second for each command.

`python -m tests.runbook.zygote SOCKET` serves; `CLIENT` is what stands on the path. What is run is `tokenworks.app.cli.main` with the
arguments, the environment, the folder and the files of whoever typed it. `serve` has its own interpreter always.
"""

import json
import os
import signal
import socket
import sys
import traceback

FILES = 3
CLIENT = """#!{python} -IS
import json, os, socket, sys
arguments = sys.argv[1:]
if "serve" in arguments:
    os.execv("{python}", ["{python}", "-m", "tokenworks", *arguments])
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("{path}")
    asked = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(sock, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    sock.sendall(asked)
    code = sock.recv(1)
sys.exit(code[0] if code else 1)
"""


def run(arguments, environ, folder, files):
    """In the child. Returns the exit code."""
    from tokenworks.app.cli import main

    for number, file in enumerate(files):
        os.dup2(file, number)
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


def answer(sock):
    """In a child of its own, which waits for the command."""
    head, files, _, _ = socket.recv_fds(sock, 4, FILES)
    left, asked = int.from_bytes(head, "big"), b""
    while len(asked) < left:
        asked += sock.recv(left - len(asked))
    arguments, environ, folder = json.loads(asked)
    pid = os.fork()
    if pid == 0:
        sock.close()
        os._exit(run(arguments, environ, folder, files))
    _, status = os.waitpid(pid, 0)
    sock.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
    os._exit(0)


def main(path):
    import tokenworks.app.cli  # noqa: F401  # what the children share

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    waiting = set()
    while True:
        sock, _ = listener.accept()
        pid = os.fork()
        if pid == 0:
            listener.close()
            answer(sock)
        sock.close()
        waiting.add(pid)
        waiting -= {one for one in waiting if os.waitpid(one, os.WNOHANG)[0]}


if __name__ == "__main__":
    main(sys.argv[1])
