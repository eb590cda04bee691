"""The tests that the sdists of openai and anthropic carry, run against a gateway: chat, messages, responses, streaming.

Nothing of theirs is changed. Their mock server is the gateway, and where they mock an answer themselves, the gateway gives it
(`sdks/through_gateway.py`). What fails is on the list of `sdks/skips.yaml` with its reason, or is a defect.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent / "sdks"
LOCK = Path(__file__).parents[2] / "requirements" / "dev.lock"
HELPERS = HERE / "requirements.txt"
INSTALL_S, RUN_S = 900, 3600
# The tests with their loose client and with aiohttp send what those with the strict one send, and expect less of what comes back.
ONCE = ("-k", "not loose and not aiohttp")
CHAT, MESSAGES, RESPONSES = "chat", "messages", "responses"
DEPLOYMENTS = (CHAT, MESSAGES, RESPONSES)


@dataclass(frozen=True)
class Suite:
    """`base`: the path of its base URL; `tests`: the files of it that are run."""

    base: str
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()


SUITES = {
    "openai": Suite(
        "/v1",
        (
            "tests/api_resources/chat/test_completions.py",
            "tests/api_resources/test_responses.py",
            "tests/api_resources/responses/test_input_tokens.py",
        ),
    ),
    "anthropic": Suite(
        "",
        (
            "tests/api_resources/test_messages.py",
            "tests/api_resources/beta/test_messages.py",
            "tests/lib/streaming",
            "tests/lib/_parse/test_messages.py",
        ),
        ("-p", "tests._alias_httpx"),
    ),
}


def pinned(name):
    """(version, hashes) of a package in the project's lock of development."""
    found = re.search(rf"^{name}==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", LOCK.read_text(), re.MULTILINE)
    assert found is not None, name
    return found[1], re.findall(r"--hash=(\S+)", found[2])


def installed(*, install):
    """The folder with the sdists of the lock, unpacked, and what their tests import; made once in the user's cache where `install` says
    so. Skips where it is not there, or pip fails.
    """
    text = HELPERS.read_text() + "".join(f"{name} {pinned(name)}" for name in SUITES)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tokenworks" / f"sdks-{name}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (cache / "installed").exists():
            if not install:
                pytest.skip("the SDKs' own tests are not installed: make nightly installs and runs them")
            pip("install", "--no-deps", "--target", cache / "site", "-r", HELPERS)
            for sdk in SUITES:
                unpack(sdk, cache)
            (cache / "installed").touch()
    return cache


def unpack(name, cache):
    """The sdist of a package, which has one of the lock's hashes."""
    version, hashes = pinned(name)
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"{name}=={version} " + " ".join(f"--hash={each}" for each in hashes) + "\n")
        pip("download", "--no-deps", "--no-binary", name, "--require-hashes", "-r", wanted, "-d", folder)
        with tarfile.open(Path(folder, f"{name}-{version}.tar.gz")) as packed:
            packed.extractall(cache, filter="data")
    (cache / f"{name}-{version}").rename(cache / name)


def pip(*argv):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )
    if done.returncode:
        pytest.skip(f"pip could not get the SDKs' own tests: {done.stderr.strip()[-300:]}")


def run(sdk, url, key, told, *, tests=(), install=False):
    """A line {test, ended, reached, why} of each test of the suite, or of `tests` of it."""
    suite, cache = SUITES[sdk], installed(install=install)
    with tempfile.TemporaryDirectory() as home:
        report = Path(home, "report")
        environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environ |= {
            "HOME": home, "TMPDIR": home, "PYTHONPATH": f"{cache / 'site'}:{HERE}", "PYTHONDONTWRITEBYTECODE": "1",
            "TEST_API_BASE_URL": f"{url}{suite.base}", "EDGE_KEY": key, "EDGE_TOLD": told, "EDGE_REPORT": str(report),
        }  # fmt: skip
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            *suite.options,
            *ONCE,
        ]
        done = subprocess.run(
            [*argv, "-p", "through_gateway", *(tests or suite.tests)],
            cwd=cache / sdk,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        assert report.exists(), (done.stdout + done.stderr)[-3000:]
        return [json.loads(line) for line in report.read_text().splitlines()]


def function_of(test):
    """The id of a test without its parameters."""
    return test.partition("[")[0]


def skips(sdk, deployment):
    """function -> reason, of those that may fail against a deployment."""
    found = {}
    for each in yaml.safe_load((HERE / "skips.yaml").read_text())[sdk]:
        if deployment in each.get("against", DEPLOYMENTS):
            for name in each["tests"]:
                assert name not in found, name
                found[name] = each["why"]
    return found


def findings(lines, listed):
    """Sentences on tests that fail and are not listed, and on listed ones of which none fails."""
    failed = {}
    for line in lines:
        failed.setdefault(function_of(line["test"]), []).append(line if line["ended"] == "failed" else None)
    for name, those in sorted(failed.items()):
        bad = next(filter(None, those), None)
        if bad is not None and name not in listed:
            yield f"{bad['test']} failed: {bad['why'][-600:]}"
        if bad is None and name in listed:
            yield f"{name} is on the list, and passes"
