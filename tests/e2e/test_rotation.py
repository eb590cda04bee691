"""Secrets that are rotated on two hosts that serve: nothing is refused, nothing is started anew, and no host is left behind."""

import json
import os
import shutil
import signal
import threading

import pytest

from tests.support.server import Server, until
from tokenworks.app.database.embedded import Embedded


@pytest.fixture
def two_hosts(tmp_path, upstream):
    """Two hosts on one database, each with secrets of its own, which are copies."""
    home = tmp_path / "database"
    with Embedded(home).use() as url:
        with Server(tmp_path / "a", workers=2, database_url=url) as a:
            a.add_deployment("stub", "stub", upstream.url)
            shutil.copytree(a.settings.secrets, tmp_path / "b" / "secrets")
            with Server(tmp_path / "b", workers=2, database_url=url) as b:
                yield a, b
            assert a.findings() == []
    Embedded(home).destroy()


def copy(name, a, b):
    """As scp and chmod do it: not at once, and readable by others for a moment."""
    source, target = a.settings.secrets / name, b.settings.secrets / name
    target.write_bytes(source.read_bytes()[:10])
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)


def children(server):
    """The workers and the control plane, which must not be others at the end."""
    return sorted(pid for name, pid in server.processes() if name in {"worker", "control", "recorder"})


class Asking(threading.Thread):
    """One after the other, of each host: what was not answered with 200."""

    def __init__(self, hosts, keys):
        super().__init__()
        self._hosts, self.keys, self._enough = hosts, keys, threading.Event()
        self.asked, self.refused = 0, []

    def run(self):
        while not self._enough.is_set():
            for host in self._hosts:
                for key in list(self.keys):
                    status, body, _ = host.chat(key, {"tokens": 1, "prompt": 1}, max_tokens=1)
                    self.asked += 1
                    if status != 200:
                        self.refused.append((status, body))

    def stop(self):
        self._enough.set()
        self.join()


def loaded(server, version):
    rows = json.loads(server.cli("pepper", "list", "--json").stdout)
    return [host["loaded"] for row in rows if row["version"] == version for host in row["hosts"]]


def staff(server, token):
    return server.get("/api/operations/audit", token)[0]


def rotate_the_wrapping_key(a, b, subscriber, token):
    a.cli("vault", "new-key")
    refused = a.cli("vault", "rewrap", "--wait-s", "0", check=False)
    assert refused.returncode == 1 and "person-wrap-2 is not loaded on" in refused.stderr
    copy("person-wrap-2", a, b)
    assert json.loads(a.cli("vault", "rewrap", "--wait-s", "60", "--json").stdout)["rewrapped"] >= 1
    for host in (a, b):
        # The answer has what is encrypted under the person's key.
        path = f"/api/operations/subscribers/{subscriber.subscriber_id}/actions"
        for action in ("suspend", "resume"):
            status, body, _ = host.request(
                "POST", path, token, {"action": action, "cause": "operator", "reason": "a test"}
            )
            assert status == 200, body
        assert subscriber.phone[-4:] in body.decode()


def test_a_pepper_and_a_wrapping_key_are_rotated_under_requests(two_hosts):
    a, b = two_hosts
    before = children(a), children(b)
    subscriber, old = a.subscriber("sample-trial")
    tokens = {
        "old": json.loads(a.cli("staff", "add", "--name", "Ann", "--role", "auditor", "--json").stdout)[
            "token"
        ]
    }
    asking = Asking((a, b), [old])
    asking.start()
    assert json.loads(a.cli("pepper", "new", "--json").stdout)["version"] == 2
    until(lambda: loaded(a, 2) == [True, False] or loaded(a, 2) == [False, True], what="host a to have it")
    refused = a.cli("pepper", "use", "2", "--wait-s", "0", check=False)
    assert (
        refused.returncode == 1
        and "pepper-2 is not loaded on" in refused.stderr
        and "--force" in refused.stderr
    )
    assert refused.stderr.count("heard of at") == 1
    copy("pepper-2", a, b)
    # It waits by itself until host b has said that it has it.
    a.cli("pepper", "use", "2", "--wait-s", "60")
    asking.keys.append(a.key(subscriber))  # of this process, which has the peppers of before
    made = json.loads(
        b.cli(
            "key", "create", "--subscriber", str(subscriber.subscriber_id), "--name", "new", "--json"
        ).stdout
    )
    asking.keys.append(made["key"])
    tokens["new"] = json.loads(b.cli("staff", "add", "--name", "Bo", "--role", "auditor", "--json").stdout)[
        "token"
    ]
    versions = a.connection.execute("SELECT DISTINCT pepper_version FROM api_key ORDER BY 1").fetchall()
    assert versions == [(1,), (2,)]
    so_far = asking.asked
    until(lambda: asking.asked > so_far + 20, what="requests with the new key")
    assert {staff(host, token) for host in (a, b) for token in tokens.values()} == {200}
    operator = json.loads(a.cli("staff", "add", "--name", "Cy", "--role", "operator", "--json").stdout)[
        "token"
    ]
    rotate_the_wrapping_key(a, b, a.subscriber("sample-trial")[0], operator)
    asking.stop()
    assert asking.refused == [] and asking.asked > 40
    assert (children(a), children(b)) == before
    # Once no host makes keys under it, and none that is live was made under it, it is retired, and its file may go.
    refused = a.cli("pepper", "retire", "1", check=False)
    assert refused.returncode == 1 and "made under pepper 1 and still good" in refused.stderr


def test_a_host_that_was_stopped_meanwhile_serves_nobody_wrongly(two_hosts):
    a, b = two_hosts
    subscriber, old = a.subscriber("sample-trial")
    assert b.chat(old)[0] == 200
    stopped = [pid for _, pid in b.processes()] + [b.process.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        a.cli("pepper", "new")
        refused = a.cli("pepper", "use", "2", "--wait-s", "0", check=False)
        assert refused.returncode == 1 and "Where that host is gone for good: --force" in refused.stderr
        a.cli("pepper", "use", "2", "--force")
        made = json.loads(
            a.cli(
                "key", "create", "--subscriber", str(subscriber.subscriber_id), "--name", "new", "--json"
            ).stdout
        )
        token = json.loads(a.cli("staff", "add", "--name", "Ann", "--role", "auditor", "--json").stdout)[
            "token"
        ]
        until(lambda: a.chat(made["key"])[0] == 200, what="host a")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    # It lacks what the works uses: it says so, is not ready, and calls no key wrong that it can't know.
    until(lambda: "pepper-2" in b.get("/readyz")[1].decode(), what="host b to notice")
    assert b.get("/readyz")[0] == 503
    until(lambda: not b.ready(), what="its admin port to say so")
    status, body, headers = b.chat(made["key"])
    assert (status, json.loads(body)["error"]["code"]) == (503, "pepper_missing") and headers["retry-after"]
    assert b.chat(old)[0] == 200
    until(lambda: staff(b, token) == 503, what="its control plane to notice")
    copy("pepper-2", a, b)
    until(lambda: b.chat(made["key"])[0] == 200 and staff(b, token) == 200, what="host b to have it")
    until(b.ready, what="host b to be ready")


@pytest.fixture
def alone(tmp_path, upstream):
    with Server(tmp_path / "host", workers=2) as host:
        host.add_deployment("stub", "stub", upstream.url)
        yield host


def test_a_file_that_is_no_secret_is_no_outage(alone):
    a = alone
    _, key = a.subscriber("sample-trial")
    secrets = a.settings.secrets
    for name in ("pepper-1~", "pepper-x", ".DS_Store"):
        (secrets / name).write_bytes(b"x")
    (secrets / "pepper-7").mkdir()
    (secrets / "person-wrap-9").write_bytes(b"")
    for _, pid in [found for found in a.processes() if found[0] in {"worker", "control"}]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: a.log_text().count("pepper-7 is a folder") >= 3, what="new processes to look")
    until(a.ready, what="the host to be ready")
    assert a.chat(key)[0] == 200
    # What the files of a server's start become is of its next start.
    (secrets / "pepper-1").write_bytes(b"y" * 32)
    until(lambda: a.log_text().count("secrets.changed") == 4, what="all processes to notice")
    for _, pid in [found for found in a.processes() if found[0] == "worker"]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: a.log_text().count("secrets.changed") == 6, what="new processes to look")
    until(a.ready, what="the host to be ready")
    assert a.chat(key)[0] == 200
    assert "Traceback" not in a.log_text()
