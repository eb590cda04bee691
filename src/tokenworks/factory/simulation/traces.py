"""Traffic for the simulator: files of public traces, and synthetic traffic. A file with an unknown form is refused."""

import csv
import gzip
import json
import math
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from tokenworks.factory.errors import TraceFaulty
from tokenworks.factory.simulation.engine import TraceRequest
from tokenworks.kernel import is_digits

ROWS_MAX: Final = 2_000_000
FILE_BYTES_MAX: Final = 2 * 1024**3
TOKENS_MAX: Final = 10_000_000
BLOCK_TOKENS: Final = 512


def read_trace(name: str) -> list[TraceRequest]:
    """A trace from a file, or synthetic traffic (`synthetic:NAME[:SEED]`). In the order of time, which begins at zero.

    Files, gzipped or not: `.jsonl` with `timestamp` (ms), `input_length`, `output_length` and `hash_ids` (Mooncake), `.csv`
    with TIMESTAMP, ContextTokens, GeneratedTokens (Azure). Raises `TraceFaulty`, which names the line.
    """
    if name.startswith("synthetic:"):
        _, kind, *rest = name.split(":")
        if kind not in SYNTHETIC or len(rest) > 1 or (rest and not is_digits(rest[0], 18)):
            raise TraceFaulty(
                f"traffic is made as synthetic:NAME[:SEED], with {', '.join(sorted(SYNTHETIC))}"
            )
        return SYNTHETIC[kind](random.Random(int(rest[0]) if rest else 0))
    path = Path(name)
    if not path.is_file():
        raise TraceFaulty(f"there is no file {name}; traffic is made by synthetic:{min(SYNTHETIC)}, too")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"][-1:]
    reader = {".jsonl": _jsonl, ".csv": _azure}.get(suffixes[0] if suffixes else "")
    if reader is None:
        raise TraceFaulty(f"{name}: a trace is .jsonl or .csv, gzipped or not")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as text:
            found = list(reader(text, name))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise TraceFaulty(f"{name} can't be read: {error}") from None
    if not found:
        raise TraceFaulty(f"{name} has no requests")
    found.sort(key=lambda request: request.at_ms)
    first_ms = found[0].at_ms
    return [request._replace(at_ms=request.at_ms - first_ms) for request in found]


def _tokens(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= TOKENS_MAX:
        raise TraceFaulty(f"{where}: a count of tokens is 1 to {TOKENS_MAX}, not {str(value)[:40]}")
    return value


def _jsonl(text: IO[str], name: str) -> Iterator[TraceRequest]:
    for at, line in enumerate(text, 1):
        where = f"{name}:{at}"
        if at > ROWS_MAX:
            raise TraceFaulty(f"{where}: a trace has at most {ROWS_MAX} requests")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            at_ms, blocks = float(row["timestamp"]), row.get("hash_ids", [])
            length, made = row["input_length"], row["output_length"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TraceFaulty(
                f"{where}: it is an object with timestamp, input_length, output_length (and hash_ids)"
            ) from None
        if (
            not math.isfinite(at_ms)
            or not isinstance(blocks, list)
            or not all(isinstance(b, int) for b in blocks)
        ):
            raise TraceFaulty(f"{where}: a timestamp is a number, hash_ids are integers")
        yield TraceRequest(at_ms, _tokens(length, where), _tokens(made, where), tuple(blocks))


def _azure(text: IO[str], name: str) -> Iterator[TraceRequest]:
    for at, row in enumerate(csv.DictReader(text), 2):
        where = f"{name}:{at}"
        if at > ROWS_MAX:
            raise TraceFaulty(f"{where}: a trace has at most {ROWS_MAX} requests")
        try:
            stamp = datetime.fromisoformat(row["TIMESTAMP"][:26])
            length, made = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (KeyError, ValueError, TypeError):
            raise TraceFaulty(f"{where}: it has TIMESTAMP, ContextTokens, GeneratedTokens") from None
        yield TraceRequest(
            stamp.replace(tzinfo=UTC).timestamp() * 1000.0, _tokens(length, where), _tokens(max(1, made), where)
        )  # fmt: skip


# Synthetic traffic.


def _length(rnd: random.Random, median: float, spread: float, most: int) -> int:
    return max(1, min(most, int(rnd.lognormvariate(math.log(median), spread))))


def _conversations(
    rnd: random.Random, begun_at_ms: Iterator[float], *, turns: float = 4.0, system_blocks: int = 2
) -> list[TraceRequest]:
    """Chats: the prompt of a turn is the whole conversation so far and something new; all chats begin with one system prompt."""
    found: list[TraceRequest] = []
    fresh = 1_000_000
    for begun_ms in begun_at_ms:
        at_ms, blocks = begun_ms, list(range(system_blocks))
        tokens = system_blocks * BLOCK_TOKENS
        for _ in range(1 + int(rnd.expovariate(1.0 / (turns - 1.0)))):
            tokens += _length(rnd, 900, 1.4, 60_000)
            made = _length(rnd, 250, 0.8, 4000)
            while len(blocks) < tokens // BLOCK_TOKENS:
                fresh += 1
                blocks.append(fresh)
            found.append(TraceRequest(at_ms, tokens, made, tuple(blocks)))
            tokens += made
            at_ms += made * 20.0 + rnd.expovariate(1.0 / 40_000)
    return sorted(found, key=lambda request: request.at_ms)


def _poisson(
    rnd: random.Random, until_s: float, rate: Callable[[float], float], most: float
) -> Iterator[float]:
    """Arrival times in ms, at a rate per second that changes over time (thinning: P. A. W. Lewis and G. S. Shedler, 1979)."""
    at_s = 0.0
    while True:
        at_s += rnd.expovariate(most)
        if at_s > until_s:
            return
        if rnd.random() * most <= rate(at_s):
            yield at_s * 1000.0


def _conversation(rnd: random.Random) -> list[TraceRequest]:
    """Twenty minutes of chats."""
    return _conversations(rnd, _poisson(rnd, 1200.0, lambda _: 1.2, 1.2))


def _uniform(rnd: random.Random) -> list[TraceRequest]:
    """Twenty minutes of requests of about equal length whose prompts share nothing."""
    return [
        TraceRequest(at_ms, rnd.randint(3000, 5000), rnd.randint(150, 250))
        for at_ms in _poisson(rnd, 1200.0, lambda _: 8.0, 8.0)
    ]


FESTIVAL_TIMES: Final = 14


def _festival(rnd: random.Random) -> list[TraceRequest]:
    """A day on which the traffic grows fourteen-fold towards the evening and falls again; an hour of the day takes three minutes."""
    day_s, base = 72 * 60.0, 0.12

    def rate(at_s: float) -> float:
        hour = at_s / day_s * 24.0
        return base * (1.0 + (FESTIVAL_TIMES - 1.0) * math.exp(-(((hour - 20.0) / 2.2) ** 2)))

    return _conversations(rnd, _poisson(rnd, day_s, rate, base * FESTIVAL_TIMES))


DAY_TOKENS: Final = 800_000_000


def _day(rnd: random.Random) -> list[TraceRequest]:
    """A day of 800 million tokens, input and output together, with its night and its two peaks."""

    def rate(at_s: float) -> float:
        hour = at_s / 3600.0 % 24.0
        return 0.15 + math.exp(-(((hour - 10.5) / 2.5) ** 2)) + 0.9 * math.exp(-(((hour - 20.0) / 2.5) ** 2))

    chats = _conversations(rnd, _poisson(rnd, 86_400.0, lambda s: 0.55 * rate(s), 0.7))
    # More chats are made than needed, and a random part is kept so that the tokens add up to the day's. Times are scaled so that turns
    # after midnight fall into the day.
    share = DAY_TOKENS / sum(request.input_tokens + request.output_tokens for request in chats)
    kept = [request for request in chats if rnd.random() <= share]
    scale = min(1.0, 86_400_000.0 / kept[-1].at_ms)
    return [request._replace(at_ms=request.at_ms * scale) for request in kept]


SYNTHETIC: Final[dict[str, Callable[[random.Random], list[TraceRequest]]]] = {
    "conversation": _conversation,
    "uniform": _uniform,
    "festival": _festival,
    "day-800m": _day,
}
