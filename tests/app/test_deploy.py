"""What is shipped to install a host with, held against the settings, and by the tools that are here."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache

import jsonschema_rs
import pytest
import yaml

from tests.support.prompt import blocks
from tests.support.server import ROOT, Server
from tokenworks.app.settings import Settings, load_settings, parse_address

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd/tokenworks.service"
CHART = DEPLOY / "helm/tokenworks"
COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
DEFAULTS = Settings()
PUBLIC, ADMIN = (parse_address(address)[1] for address in (DEFAULTS.listen, DEFAULTS.admin_listen))


def tool(*words):
    """Skips, with the tool's name, where it is not here."""
    if shutil.which(words[0]) is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip(f"{' '.join(words[:2])} is not here")


@cache
def files():
    return [
        ROOT / "Dockerfile",
        *(
            path
            for path in sorted(DEPLOY.rglob("*"))
            if path.is_file() and "prometheus" not in path.parts and "grafana" not in path.parts
        ),
    ]


def test_every_setting_that_is_named_is_one():
    named = set()
    for path in files():
        for name in re.findall(r"TOKENWORKS_([A-Z_]*[A-Z])\b", path.read_text()):
            named.add(name.lower())
    named -= {"upstream", "compile"}  # the beginning of credentials' names; which build is made and runs
    assert named >= {
        "data_dir",
        "listen",
        "admin_listen",
        "database_url",
        "database_owner_url",
        "secrets_dir",
    }
    assert named <= set(Settings.model_fields), named - set(Settings.model_fields)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["settings"]
    assert {*values["settings"], *known["properties"], *known["propertyNames"]["not"]["enum"]} <= set(
        Settings.model_fields
    )
    # They are settings that a host starts with.
    assert load_settings({}, {f"TOKENWORKS_{k.upper()}": str(v) for k, v in values["settings"].items()})


def test_ports_and_paths_are_those_of_the_defaults():
    image = (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {PUBLIC} {ADMIN}\n" in image
    assert (
        f"TOKENWORKS_LISTEN=0.0.0.0:{PUBLIC} " in image
        and f"TOKENWORKS_ADMIN_LISTEN=0.0.0.0:{ADMIN}\n" in image
    )
    assert f"127.0.0.1:{ADMIN}/healthz" in image
    assert "VOLUME /data" in image and "TOKENWORKS_DATA_DIR=/data " in image
    pod = (CHART / "templates/statefulset.yaml").read_text()
    assert f"name: public, containerPort: {PUBLIC}" in pod and f"name: admin, containerPort: {ADMIN}" in pod
    assert f'prometheus.io/port: "{ADMIN}"' in pod and "{name: data, mountPath: /data}" in pod
    assert {(probe, path) for probe, path in re.findall(r"(\w+)Probe:\n\s+httpGet: {path: (/\w+), port: admin}", pod)} == {
        ("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")
    }  # fmt: skip
    unit = UNIT.read_text()
    (folder,) = re.findall(r"TOKENWORKS_DATA_DIR=(\S+)", unit)
    assert (
        f"ReadWritePaths={folder}\n" in unit
        and f"StateDirectory={folder.removeprefix('/var/lib/')}\n" in unit
    )
    for path in COMPOSE:
        text = path.read_text()
        assert f"127.0.0.1:${{PUBLIC_PORT:-{PUBLIC}}}:{PUBLIC}" in text and "data:/data" in text


def test_whatever_stops_a_host_waits_until_it_has_drained():
    drain_s = DEFAULTS.drain_grace_s + DEFAULTS.drain_s
    (unit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert int(unit_s) > drain_s
    assert "ExecReload=/bin/kill -HUP $MAINPID\n" in UNIT.read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    settings = values["settings"]
    assert values["terminationGracePeriodSeconds"] > settings["drain_grace_s"] + settings["drain_s"]
    for path in COMPOSE:
        grace = yaml.safe_load(path.read_text())["services"]["server"]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > drain_s
    # `docker stop -t 90`, which the image's comment tells.
    assert int(re.findall(r"docker stop -t (\d+)", (ROOT / "Dockerfile").read_text())[0]) > drain_s


def test_the_image_is_built_from_locks_and_is_not_root():
    image = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip install (.*?)(?: \\| &&|; do|\|\||\n)", image)
    assert len(installs) == 3
    assert all(
        "--require-hashes --no-deps" in one or "--no-index --no-deps /dist" in one for one in installs
    ), installs
    assert all((ROOT / f"requirements/{lock}.lock").exists() for lock in ("build", "compile", "run", "fonts"))
    last = image.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (\d+):(\d+)$", last, re.MULTILINE).group(1) != "0" and "HEALTHCHECK" in last
    # What is copied is let in by .dockerignore.
    let_in = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists()
            assert name in let_in or f"{os.path.dirname(name)}/*{os.path.splitext(name)[1]}" in let_in, name


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_are_read_and_the_owner_is_known_to_init_alone(path):
    services = yaml.safe_load(path.read_text())["services"]
    for name, service in services.items():
        owner = "TOKENWORKS_DATABASE_OWNER_URL" in service.get("environment", {})
        assert owner == (name == "init")
        if "build" in service:
            assert (path.parent / service["build"]["context"] / "Dockerfile").resolve() == ROOT / "Dockerfile"
            assert service["cap_drop"] == ["ALL"] and service["read_only"] is True
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_docker_compose_takes_them(path):
    tool("docker", "compose", "version")
    environ = os.environ | {"OWNER_PASSWORD": "a", "SERVING_PASSWORD": "b"}
    done = subprocess.run(
        ["docker", "compose", "-f", path, "config", "-q"], capture_output=True, text=True, env=environ
    )
    assert done.returncode == 0, done.stderr


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path):
    tool("systemd-analyze", "--version")
    # The command that it starts is not installed here.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/tokenworks/bin/tokenworks", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert done.returncode == 0 and UNIT.name not in done.stderr, done.stderr
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_a_host_serves_with_memory_that_is_never_written_and_run(tmp_path, upstream):
    """`MemoryDenyWriteExecute` of the unit, as the kernel has it: it is inherited by all processes of a host."""
    assert "MemoryDenyWriteExecute=yes\n" in UNIT.read_text()
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) and 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        pytest.skip("this kernel has no PR_SET_MDWE (6.3 or newer)")
    deny = tmp_path / "python"
    deny.write_text(
        f"#!{sys.executable}\nimport ctypes, os, sys\n"
        f"assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) == 0\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    deny.chmod(0o755)
    server = Server(tmp_path / "host")
    server.python = str(deny)
    with server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()
        assert server.chat(key, {"tokens": 5})[0] == 200
        # PostgreSQL, too: a just-in-time compiler would be refused.
        server.usage(subscriber, 1)
        for _, pid in server.processes():
            with open(f"/proc/{pid}/maps") as maps:
                assert not [line for line in maps if " rwxp " in line]


def test_the_chart_is_read_and_its_values_are_as_its_schema_says():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    from tokenworks import __version__

    assert chart["appVersion"] == chart["version"] == __version__
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) | {"global"} == set(schema["properties"])
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(values)
    for wrong in (
        {"hosts": 0},
        {"settings": {"listen": "0.0.0.0:1"}},
        {"setting": {}},
        {"terminationGracePeriodSeconds": 5},
    ):
        assert not validator.is_valid(values | wrong), wrong
    # Each value that a template names is there.
    for path in sorted((CHART / "templates").iterdir()):
        for name in re.findall(r"\.Values\.([A-Za-z_.]+)", path.read_text()):
            found = values
            for part in name.split("."):
                assert part in found, f"{path.name} names {name}"
                found = found[part]


def test_helm_takes_the_chart():
    tool("helm", "version")
    done = subprocess.run(
        ["helm", "lint", "--strict", CHART, "--set", "trustedProxies=10.0.0.0/8"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["helm", "template", "t", CHART, "--set", "trustedProxies=10.0.0.0/8"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kinds = [found["kind"] for found in yaml.safe_load_all(done.stdout) if found]
    assert sorted(kinds) == ["Job", "PodDisruptionBudget", "Service", "Service", "StatefulSet"]
    assert subprocess.run(["helm", "template", "t", CHART], capture_output=True).returncode != 0


def test_what_its_readme_tells_names_what_is_there():
    """Its blocks install into a machine, so no test runs them."""
    code = "".join(block.code for block in blocks(DEPLOY / "README.md"))
    named = re.findall(r"(?:deploy|requirements)/[\w./$-]*\w", code)
    assert len(named) >= 4
    for name in named:
        assert [(ROOT / name.replace("$lock", lock)).exists() for lock in ("run", "fonts")] == [True, True], (
            name
        )
    for path in files():
        if path.name not in {"README.md", "Dockerfile", ".helmignore"} and "helm" not in path.parts:
            assert path.name in (DEPLOY / "README.md").read_text()
