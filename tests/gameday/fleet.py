"""The hosts of a game: each has a disk and secrets of its own, one database is everybody's."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import ssl
from pathlib import Path

from tests.app.process.test_renewing import pair
from tests.support.environ import is_setting
from tests.support.releases import THIS, Host
from tests.support.server import until

# In the environment of every process of a game, by which those that are left are found.
MARKER = "GAME_DAY"
SETTINGS = {
    "recorder_wait_s": 1, "worker_silence_s": 2, "progress_tokens": 1, "grant_spend_s": 10, "drain_grace_s": 2, "drain_s": 20,
    "bill_run_every_h": 0, "health_check_s": 1, "retries_per_s": 1000,
}  # fmt: skip


@functools.cache
def settings_of(release):
    """The names of the settings that a release knows."""
    app = Path(release) / "tokenworks/app"
    # A package of topics; one file in releases before.
    text = "".join(path.read_text() for path in [*app.glob("settings/*.py"), *app.glob("settings.py")])
    return frozenset(re.findall(r"^    ([a-z_]+): ", text, re.MULTILINE))


class GameHost(Host):
    def __init__(self, name, folder, fleet):
        self.name, self.fleet = name, fleet
        super().__init__(
            folder / name, THIS, workers=fleet.workers, database_url=fleet.cluster.owner_url, tls_certificate=fleet.certificate,
            tls_key=fleet.key, **SETTINGS,
        )  # fmt: skip
        self.env[MARKER] = fleet.marker
        self.address, self.leaves = "127.0.0.1:0", False

    def environ_of(self, release=None, *, init=False):
        release = release or self.release
        known = settings_of(release)
        drain_grace_s = self.env["TOKENWORKS_DRAIN_GRACE_S"]
        environ = super().environ_of(release, init=init)
        environ["TOKENWORKS_DRAIN_GRACE_S"] = drain_grace_s
        return {
            name: value for name, value in environ.items()
            if not is_setting(name) or name.removeprefix("TOKENWORKS_").lower() in known
        }  # fmt: skip

    @property
    def secrets(self):
        return self.data_dir / "secrets"

    def begin(self):
        """Started where it was before, so that the balancer finds it again."""
        self.start(self.address, ready_s=90.0)
        self.address = self.public
        self.fleet.ports |= {self.port, int(self.admin.rpartition(":")[2])}

    def leave(self):
        """Told to stop; a second signal would end its grace."""
        self.leaves = True
        self.process.send_signal(signal.SIGTERM)

    def end(self):
        """In order: told to stop, it ends with 0."""
        process = self.process
        if not self.leaves:
            self.leave()
        process.wait(120)
        self.leaves = False
        self.stop()
        assert process.returncode == 0, (
            f"host {self.name} ended with {process.returncode}:\n{self.log_text()[-3000:]}"
        )

    def pids(self, name):
        return [pid for found, pid in self.processes() if found == name]

    def process_of(self, name):
        """One of them, when it is there."""
        if name == "supervisor":
            return self.process.pid
        return until(lambda: self.pids(name), 60, what=f"{name} of host {self.name}")[0]

    def report(self):
        with contextlib.suppress(OSError, ValueError):
            path = self.data_dir / "run" / "recorder.json"
            return json.loads(path.read_text()) | {"at_s": path.stat().st_mtime}
        return None

    def settled(self, since_s):
        """Whether a report that is younger than that says that nothing waits."""
        report = self.report()
        return (
            report is not None and report["at_s"] > since_s and report["open_attempts"] == report["unsettled_records"] == 0
            and report["quarantined_records"] == 0 and report["settled_seq"] >= report["written_seq"] - 1
        )  # fmt: skip

    def tls_request(self, method, path, key=None, body=None, timeout_s=60):
        """(status, body) on a connection of its own to this host, past the balancer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        import http.client

        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=context)
        headers = {"content-type": "application/json"} | (
            {} if key is None else {"authorization": f"Bearer {key}"}
        )
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def ask(self, key, tokens=3):
        """A short answer: (status, the code of a refusal or none)."""
        body = {
            "model": "stub", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}],
            "user": json.dumps({"tokens": tokens, "prompt": 7}),
        }  # fmt: skip
        status, said = self.tls_request("POST", "/v1/chat/completions", key, body)
        return status, None if status == 200 else json.loads(said)["error"]["code"]


class Fleet:
    def __init__(self, folder, cluster, upstream, workers, marker):
        self.folder, self.cluster, self.upstream, self.workers, self.marker = (
            folder,
            cluster,
            upstream,
            workers,
            marker,
        )
        self.certificate, self.key = folder / "chain.pem", folder / "key.pem"
        self.renewals = 0
        self.write_certificate()
        self.hosts, self.lost = [], []
        self.ports = set()
        self._names = iter("abcdefghijklmnopqrstuvwxyz")
        self.gone = []

    def write_certificate(self):
        """First one file, then the other, as most tools do. Returns the new certificate's name."""
        self.renewals += 1
        chain, key = pair(f"certificate-{self.renewals}")
        self.certificate.write_bytes(chain)
        self.key.write_bytes(key)
        return f"certificate-{self.renewals}"

    def make(self):
        """Another host, with the secrets of the works, that does not run yet."""
        host = GameHost(next(self._names), self.folder, self)
        host.data_dir.mkdir(mode=0o700)
        shutil.copytree(self.hosts[0].secrets if self.hosts else self.cluster.secrets, host.secrets)
        return host

    def join(self, traffic):
        host = self.make()
        host.begin()
        self.hosts.append(host)
        traffic.add(host)
        traffic.sees(host)
        return host

    def restart(self, host, traffic, change=None):
        """In order, as the page says: a balancer that reads `/readyz` is in front, and others serve meanwhile."""
        host.leave()
        traffic.sees(host, ready=False)
        host.end()
        if change is not None:
            change()
        host.begin()
        traffic.sees(host)

    def lose(self, host, traffic):
        """The machine is gone with all that it had. Its disk lies somewhere, and may turn up."""
        host.kill()
        traffic.drop(host)
        self.hosts.remove(host)
        self.lost.append(host)

    def destroy(self):
        """What a game that failed has left running."""
        for host in (*self.hosts, *self.lost, *self.gone):
            if host.process is not None:
                for _, pid in host.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                        os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(host.process.pid, signal.SIGKILL)
                host.stop(signal.SIGKILL)
