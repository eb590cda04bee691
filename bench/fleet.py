"""Four real llama.cpp servers of the demo's model, chats of several turns in front of them: who keeps a chat where it was read.

Each arm gets chats of its own with the same shapes, so that none finds in a cache what another one left there.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import httpx

from bench.targets import ROOT
from tokenworks.app.calibration import random_words

SERVERS = 4
CHATS_AT_ONCE = 6
TURNS = 5
SYSTEM_WORDS = 420
TURN_WORDS = 60
OUTPUT_TOKENS = 32


class ModelServers:
    """`tokenworks.app.demo.model_server` so many times, one thread each."""

    def __init__(self, count=SERVERS):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tokenworks.app.demo.model_server", "0", "1"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for _ in range(count)
        ]  # fmt: skip
        self.urls = [process.stdout.readline().strip() for process in self.processes]
        for url in self.urls:
            for _ in range(300):
                try:
                    if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                time.sleep(0.1)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Outcome(NamedTuple):
    first_token_s: list
    tokens: int
    took_s: float


async def chat(client, port, key, model, rng, found):
    messages = [{"role": "system", "content": random_words(rng, SYSTEM_WORDS)}]
    tokens = 0
    for _ in range(TURNS):
        messages.append({"role": "user", "content": random_words(rng, TURN_WORDS)})
        body = {
            "model": model, "messages": messages, "stream": True, "max_tokens": OUTPUT_TOKENS, "temperature": 0,
            "stream_options": {"include_usage": True}, "ignore_eos": True,
        }  # fmt: skip
        sent, first, said = time.perf_counter(), None, []
        async with client.stream(
            "POST",
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
        ) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"{answer.status_code}: {(await answer.aread())[:300]!r}")
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                delta = event["choices"][0]["delta"].get("content") if event.get("choices") else None
                if delta:
                    if first is None:
                        first = time.perf_counter() - sent
                    said.append(delta)
                if event.get("usage"):
                    tokens += event["usage"]["completion_tokens"]
        found.append(first if first is not None else time.perf_counter() - sent)
        messages.append({"role": "assistant", "content": "".join(said)})
    return tokens


async def run(port, key, model, chats, seed):
    """All chats, so many at once. Turns after the first are what a cache can help with; all of them are counted."""
    found, left = [], list(range(chats))
    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=100)) as client:

        async def one():
            tokens = 0
            while left:
                number = left.pop()
                tokens += await chat(client, port, key, model, random.Random(f"{seed}-{number}"), found)
            return tokens

        tokens = sum(await asyncio.gather(*(one() for _ in range(CHATS_AT_ONCE))))
    return Outcome(found, tokens, time.perf_counter() - began)


def mean_ms(outcome):
    return statistics.mean(outcome.first_token_s) * 1000
