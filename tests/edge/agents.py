"""Coding agents from npm, in pinned versions, with the least configuration that points them at a server."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "clients"
INSTALL_S, RUN_S = 600, 120
# A proxy that nothing listens on: whatever a client wants of the world fails at once; loopback goes directly.
NOWHERE = "http://127.0.0.1:9"
QUIET = {
    "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "http_proxy": NOWHERE, "https_proxy": NOWHERE,
    "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "CI": "1", "NO_COLOR": "1", "TERM": "dumb",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1", "QWEN_TELEMETRY_ENABLED": "false", "OTEL_SDK_DISABLED": "true",
}  # fmt: skip


def installed(*, install):
    """The folder with `node_modules` of the lock, in the user's cache; installed there once (1.3 GB) where `install` says so. Skips
    where it is not there, or npm is missing or fails.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not here: the agents from npm were not tried")
    lock = HERE / "package-lock.json"
    name = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tokenworks" / f"clients-{name}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (cache / "installed").exists():
            if not install:
                pytest.skip("the coding agents are not installed: make nightly installs and tries them")
            for each in ("package.json", "package-lock.json"):
                shutil.copy(HERE / each, cache)
            done = subprocess.run(
                ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=cache,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
            )
            if done.returncode:
                pytest.skip(f"npm could not install the agents: {done.stderr.strip()[-300:]}")
            (cache / "installed").touch()
    return cache


class Agent:
    """An agent in a home of its own."""

    def __init__(self, folder, url, key, model, *, install=False):
        self.modules = installed(install=install) / "node_modules"
        self.home, self.url, self.key, self.model = folder, url, key, model
        self.work = folder / "work"
        self.work.mkdir(parents=True)

    def run(self, argv, **more):
        environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environ |= {"HOME": str(self.home), "TMPDIR": str(self.home)} | QUIET | more
        done = subprocess.run(
            [str(each) for each in argv],
            cwd=self.work,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        return done.stdout + done.stderr

    def native(self, *packages):
        """The program of the first of the platform's packages that is there."""
        found = next((path for path in (self.modules / each for each in packages) if path.exists()), None)
        if found is None:
            pytest.skip(f"there is no {packages[0]} for this platform")
        return found

    def codex(self):
        folder = self.home / ".codex"
        folder.mkdir()
        (folder / "config.toml").write_text(
            f'model = "{self.model}"\nmodel_provider = "works"\n[model_providers.works]\nname = "works"\nbase_url = "{self.url}/v1"\nenv_key = "WORKS_KEY"\n'
        )
        return self.run(
            [self.modules / ".bin/codex", "exec", "--skip-git-repo-check", "--json", "say it"],
            WORKS_KEY=self.key,
        )

    def codex_compacting(self):
        """Two turns, with a compaction between them. With a provider of this name Codex has the server compact; else it asks for a
        summary by itself.
        """
        folder = self.home / ".codex"
        folder.mkdir()
        (folder / "config.toml").write_text(
            f'model = "{self.model}"\nmodel_provider = "works"\nmodel_context_window = 100000\nmodel_auto_compact_token_limit = 20\n'
            f'[model_providers.works]\nname = "OpenAI"\nbase_url = "{self.url}/v1"\nenv_key = "WORKS_KEY"\n'
        )
        told = [self.modules / ".bin/codex", "exec", "--skip-git-repo-check", "--json"]
        said = self.run([*told, "say it"], WORKS_KEY=self.key)
        return said + self.run([*told, "resume", "--last", "say more"], WORKS_KEY=self.key)

    def claude(self):
        """Base URL and key alone: it asks for its own newest model."""
        program = self.native(
            "@anthropic-ai/claude-code-linux-x64/claude", "@anthropic-ai/claude-code-linux-arm64/claude"
        )
        return self.run(
            [program, "-p", "say it", "--output-format", "json"],
            ANTHROPIC_BASE_URL=self.url,
            ANTHROPIC_AUTH_TOKEN=self.key,
        )

    def opencode(self):
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "works", "options": {"baseURL": f"{self.url}/v1", "apiKey": self.key},
                    "models": {self.model: {"name": self.model}}}  # fmt: skip
        model = f"works/{self.model}"
        settings = {
            "autoupdate": False,
            "share": "disabled",
            "model": model,
            "small_model": model,
            "provider": {"works": provider},
        }
        (self.work / "opencode.json").write_text(json.dumps(settings))
        return self.run(
            [
                self.native("opencode-linux-x64/bin/opencode", "opencode-linux-arm64/bin/opencode"),
                "run",
                "say it",
            ]
        )

    def qwen(self):
        program = self.modules / "@qwen-code/qwen-code/cli-entry.js"
        return self.run(
            ["node", program, "--auth-type", "openai", "-p", "say it"],
            OPENAI_BASE_URL=f"{self.url}/v1", OPENAI_API_KEY=self.key, OPENAI_MODEL=self.model,
        )  # fmt: skip
