"""Times a real engine over its OpenAI-compatible route, and compares the simulator with it."""

import http.client
import json
import random
import ssl
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tokenworks.factory import (
    AnswerTiming,
    Deployment,
    EngineSpec,
    PromptTiming,
    TraceFaulty,
    TraceRequest,
    auth_headers,
    auth_of,
    fit,
    paths_of,
    profile_of,
    simulate,
)

PROMPT_WORDS: Final = (40, 150, 400, 800)
PROMPTS_EACH: Final = 3
AT_ONCE: Final = (1, 2, 4)
ANSWER_TOKENS: Final = 48
TIMEOUT_S: Final = 120.0
CHECK_REQUESTS: Final = 24
WORDS: Final = [
    "river",
    "stone",
    "market",
    "letter",
    "winter",
    "garden",
    "engine",
    "harbour",
    "silver",
    "window",
    "mountain",
    "paper",
    "signal",
    "bridge",
    "season",
    "kitchen",
    "travel",
    "number",
    "forest",
    "light",
    "summer",
    "village",
    "music",
    "cotton",
    "copper",
    "morning",
    "evening",
    "teacher",
    "doctor",
    "story",
]


class TimedAnswer(NamedTuple):
    """The times of one streamed answer at the client."""

    prompt_tokens: int
    output_tokens: int
    first_token_ms: float
    whole_ms: float


class SimulationCheck(NamedTuple):
    """Mean times of the same requests at the engine and in the simulation."""

    first_token_ms: float
    simulated_first_token_ms: float
    whole_ms: float
    simulated_whole_ms: float


def random_words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


class Engine:
    """The client of one deployment."""

    def __init__(self, deployment: Deployment, credential: str | None) -> None:
        """Raises `TraceFaulty` where the deployment does not speak chat."""
        if "chat" not in deployment.protocols:
            raise TraceFaulty(f"{deployment.name} does not speak chat")
        self._deployment = deployment
        self._credential = credential

    def time_answer(self, words: int, tokens: int, seed: int) -> TimedAnswer:
        """Send a new prompt, which no cache holds, and time the answer. Raises `TraceFaulty` where the answer is no stream with usage."""
        rng = random.Random(seed)
        text = f"{rng.random()} {random_words(rng, words)}"
        body = {
            "model": self._deployment.upstream_model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
        }  # fmt: skip
        headers = {"content-type": "application/json"}
        profile = profile_of(self._deployment.profile)
        if self._credential:
            headers |= auth_headers(auth_of(self._deployment, profile, "chat"), self._credential)
        parts = urlsplit(self._deployment.base_url)
        host, port = self._deployment.host, self._deployment.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        )
        try:
            connection.connect()
            sent = time.monotonic()
            connection.request("POST", paths_of(self._deployment, profile)["chat"], json.dumps(body), headers)
            return self._read(connection.getresponse(), sent)
        except (OSError, http.client.HTTPException) as error:
            raise TraceFaulty(
                f"{self._deployment.base_url} does not answer: {type(error).__name__}"
            ) from None
        finally:
            connection.close()

    def _read(self, answer: http.client.HTTPResponse, sent: float) -> TimedAnswer:
        if answer.status != 200:
            raise TraceFaulty(f"{self._deployment.base_url} answered {answer.status}")
        first = last = None
        usage: dict[str, int] | None = None
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            choices = event.get("choices") or []
            if choices and choices[0].get("delta", {}).get("content"):
                last = time.monotonic()
                first = last if first is None else first
            usage = event.get("usage") or usage
        if first is None or last is None or usage is None:
            raise TraceFaulty(f"{self._deployment.base_url} does not stream content and usage")
        return TimedAnswer(
            int(usage["prompt_tokens"]), int(usage["completion_tokens"]), (first - sent) * 1000.0, (last - sent) * 1000.0
        )  # fmt: skip


def step_count() -> int:
    """How many steps `measure` and `check` report together."""
    return 1 + len(PROMPT_WORDS) * PROMPTS_EACH + len(AT_ONCE) + CHECK_REQUESTS


def measure(
    engine: Engine, name: str, slots_max: int | None, seed: int, step: Callable[[], None]
) -> EngineSpec:
    """Time prompts of several lengths one by one, then several answers at once."""
    engine.time_answer(PROMPT_WORDS[0], 2, seed)  # a warm-up: the first request may load parts of the engine
    step()
    reads: list[PromptTiming] = []
    number = seed
    for words in PROMPT_WORDS:
        found = []
        for _ in range(PROMPTS_EACH):
            number += 1
            timed = engine.time_answer(words, 1, number)
            found.append(PromptTiming(timed.prompt_tokens, timed.first_token_ms))
            step()
        # The smallest time: a busy machine only ever makes a time longer.
        reads.append(min(found, key=lambda read: read.first_token_ms))
    written = []
    for at_once in AT_ONCE:
        if slots_max is not None and at_once > slots_max:
            step()
            continue
        with ThreadPoolExecutor(at_once) as pool:
            jobs = [pool.submit(engine.time_answer, PROMPT_WORDS[0], ANSWER_TOKENS, number + n) for n in range(1, at_once + 1)]  # fmt: skip
            number += at_once
            gaps = [
                (timed.whole_ms - timed.first_token_ms) / max(1, timed.output_tokens - 1)
                for timed in [job.result() for job in jobs]
            ]
        written.append(AnswerTiming(at_once, statistics.mean(gaps)))
        step()
    return fit(name, reads, written, slots_max=slots_max)


def check(engine: Engine, spec: EngineSpec, seed: int, step: Callable[[], None]) -> SimulationCheck:
    """Send the same requests at the same times to the engine and to its simulation, at about half of its capacity."""
    rng = random.Random(seed)
    words = [rng.choice(PROMPT_WORDS) for _ in range(CHECK_REQUESTS)]
    outputs = [rng.randint(8, ANSWER_TOKENS) for _ in range(CHECK_REQUESTS)]
    own_ms = statistics.mean(
        spec.prefill_base_ms + 1.4 * spec.prefill_ms_per_token * w + spec.decode_base_ms * o
        for w, o in zip(words, outputs, strict=True)
    )
    at_ms, times = 0.0, []
    for _ in words:
        at_ms += rng.expovariate(1.0 / own_ms)
        times.append(at_ms)
    found: list[TimedAnswer | None] = [None] * CHECK_REQUESTS
    began = time.monotonic()

    def send(at: int) -> None:
        wait_s = began + times[at] / 1000.0 - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        found[at] = engine.time_answer(words[at], outputs[at], seed + 10_000 + at)
        step()

    with ThreadPoolExecutor(CHECK_REQUESTS) as pool:
        list(pool.map(send, range(CHECK_REQUESTS)))
    timed = [answer for answer in found if answer is not None]
    trace: Sequence[TraceRequest] = [
        TraceRequest(at, answer.prompt_tokens, answer.output_tokens)
        for at, answer in zip(times, timed, strict=True)
    ]
    outcome = simulate(trace, [spec], "round_robin", off=0.0)
    return SimulationCheck(
        statistics.mean(answer.first_token_ms for answer in timed),
        outcome.mean_first_token_s * 1000.0,
        statistics.mean(answer.whole_ms for answer in timed),
        outcome.mean_end_to_end_s * 1000.0,
    )
