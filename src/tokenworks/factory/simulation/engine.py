"""One simulated inference engine: prompts are read one after the other, answers are written together, from one cache of blocks.

A fluid model of continuous batching: between two events (a prompt is read, an answer is done, a request arrives) the batch does not
change, so prefill and decode run at constant rates. If they share a budget of tokens per step (chunked prefill, as in vLLM and
SGLang), a prompt that is read slows the running answers; if not, it only delays the prompts behind it. Times are milliseconds.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

INF: Final = float("inf")


class EngineSpec(BaseModel):
    """The capacity and price of an engine. The defaults are one 8B-class model on one data-centre GPU, as the public trace of Mooncake is
    usually replayed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,40}$")] = "worker"
    count: int = Field(default=1, ge=1, le=10_000)
    kind: Literal["edge", "hub", "vendor"] = "hub"
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    prefill_base_ms: float = Field(default=30.0, ge=0, le=60_000)
    prefill_ms_per_token: float = Field(default=0.25, gt=0, le=1000)
    decode_base_ms: float = Field(default=12.0, gt=0, le=10_000)
    decode_ms_per_request: float = Field(default=0.4, ge=0, le=1000)
    # Tokens of one step, prompt and answers together. None: a prompt does not slow the answers.
    step_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    block_tokens: int = Field(default=512, ge=1, le=100_000)
    cache_blocks: int = Field(default=3000, ge=1, le=10_000_000)
    # Requests that are processed at once. None: as many as the cache holds.
    slots_max: int | None = Field(default=None, ge=1, le=100_000)
    # A vendor's limit of requests at once: one more is refused (429).
    requests_max: int | None = Field(default=None, ge=1, le=100_000)
    round_trip_ms: float = Field(default=0.0, ge=0, le=60_000)
    # The engine takes no request before this time.
    ready_at_s: float = Field(default=0.0, ge=0, le=10**7)
    hour_nano: int = Field(default=0, ge=0, le=10**15)
    input_nano: int = Field(default=0, ge=0, le=10**9)
    # The price of cached input. None: the same as of other input.
    cached_input_nano: int | None = Field(default=None, ge=0, le=10**9)
    output_nano: int = Field(default=0, ge=0, le=10**9)
    idle_watts: float = Field(default=100.0, ge=0, le=100_000)
    busy_watts: float = Field(default=700.0, ge=0, le=100_000)

    @property
    def cached_nano(self) -> int:
        return self.input_nano if self.cached_input_nano is None else self.cached_input_nano


class TraceRequest(NamedTuple):
    """A request of a trace. `blocks`: one id per block of the prompt; equal ids mean equal prompts up to the end of the block."""

    at_ms: float
    input_tokens: int
    output_tokens: int
    blocks: Sequence[int] = ()


class Engine:
    """One engine. The caller moves its clock: it calls `advance`, handles what happened, and asks `next_ms` for the next event."""

    __slots__ = (
        "_blocks",
        "_decoding",
        "_done_work",
        "_now_ms",
        "_pinned",
        "_prefill_left",
        "_private",
        "_queue",
        "_reading",
        "busy_ms",
        "cached_tokens",
        "matched_blocks",
        "seen_blocks",
        "spec",
        "version",
    )

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.version = 0
        self.busy_ms = 0.0
        self.matched_blocks = 0
        self.cached_tokens = 0
        self.seen_blocks = 0
        self._now_ms = 0.0
        self._queue: deque[tuple[int, TraceRequest]] = deque()
        self._reading: tuple[int, TraceRequest] | None = None
        self._prefill_left = 0.0
        # A heap of (progress at which the answer is done, ticket, request). Progress counts the tokens that each answer has got.
        self._decoding: list[tuple[float, int, TraceRequest]] = []
        self._done_work = 0.0
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._pinned: dict[int, int] = {}
        self._private = 0

    @property
    def requests(self) -> int:
        return len(self._queue) + (self._reading is not None) + len(self._decoding)

    def _rates(self) -> tuple[float, float]:
        """(prompt tokens, answer tokens of each request) per millisecond in the present batch."""
        spec, running = self.spec, len(self._decoding)
        step_ms = spec.decode_base_ms + spec.decode_ms_per_request * running
        if self._reading is None:
            return 0.0, (1.0 / step_ms if running else 0.0)
        if spec.step_tokens is None:
            return 1.0 / spec.prefill_ms_per_token, (1.0 / step_ms if running else 0.0)
        chunk = max(1, spec.step_tokens - running)
        step_ms = (step_ms if running else 0.0) + spec.prefill_ms_per_token * chunk
        return chunk / step_ms, (1.0 / step_ms if running else 0.0)

    def advance(self, now_ms: float) -> None:
        passed_ms = now_ms - self._now_ms
        if passed_ms > 0.0:
            prompt, answer = self._rates()
            self._prefill_left -= prompt * passed_ms
            self._done_work += answer * passed_ms
            if self._reading is not None or self._decoding:
                self.busy_ms += passed_ms
        self._now_ms = max(self._now_ms, now_ms)

    def next_ms(self) -> float:
        """When the next prompt is read or the next answer is done; infinity if nothing runs."""
        prompt, answer = self._rates()
        at_ms = INF
        if self._reading is not None:
            at_ms = self._now_ms + max(0.0, self._prefill_left) / prompt
        if self._decoding:
            at_ms = min(at_ms, self._now_ms + max(0.0, self._decoding[0][0] - self._done_work) / answer)
        return at_ms

    def add(self, ticket: int, request: TraceRequest) -> None:
        self._queue.append((ticket, request))
        self._begin()

    def take_first_tokens(self) -> list[int]:
        """The tickets whose prompt has been read by now."""
        if self._reading is None or self._prefill_left > 1e-6:
            return []
        ticket, request = self._reading
        self._reading = None
        self._keep(request.blocks)
        heapq.heappush(self._decoding, (self._done_work + max(0, request.output_tokens - 1), ticket, request))
        self._begin()
        return [ticket]

    def take_done(self) -> list[int]:
        """The tickets whose answer is done by now."""
        done = []
        while self._decoding and self._decoding[0][0] - self._done_work <= 1e-6:
            _, ticket, request = heapq.heappop(self._decoding)
            self._unpin(request)
            done.append(ticket)
        if done:
            self._begin()
        return done

    # The cache.

    def _match(self, blocks: Sequence[int]) -> int:
        count = 0
        for block in blocks:
            if block not in self._blocks:
                break
            count += 1
        return count

    def _answer_blocks(self, request: TraceRequest) -> int:
        return -(-request.output_tokens // self.spec.block_tokens)

    def _begin(self) -> None:
        """Begin to read the next prompt, if none is being read and the cache has room for it."""
        if self._reading is not None or not self._queue:
            return
        spec = self.spec
        ticket, request = self._queue[0]
        if spec.slots_max is not None and len(self._decoding) >= spec.slots_max:
            return
        new = sum(block not in self._pinned for block in request.blocks)
        if (
            len(self._pinned) + self._private + new + self._answer_blocks(request) > spec.cache_blocks
            and self._decoding
        ):
            return  # an answer that ends makes room; without running answers the prompt is taken anyway
        self._queue.popleft()
        matched = self._match(request.blocks)
        self.matched_blocks += matched
        self.seen_blocks += len(request.blocks)
        uncached = max(1, request.input_tokens - matched * spec.block_tokens)
        self.cached_tokens += request.input_tokens - uncached
        for block in request.blocks:
            self._pinned[block] = self._pinned.get(block, 0) + 1
        self._private += self._answer_blocks(request)
        self._reading = ticket, request
        self._prefill_left = uncached + spec.prefill_base_ms / spec.prefill_ms_per_token

    def _keep(self, blocks: Sequence[int]) -> None:
        """Cache a prompt's blocks. The least recently used blocks are evicted, the ends of prompts first, blocks in use never."""
        cached = self._blocks
        for block in reversed(blocks):
            if block in cached:
                cached.move_to_end(block)
            else:
                cached[block] = None
        over = len(cached) + self._private - self.spec.cache_blocks
        if over > 0:
            for block in [
                block for block, _ in zip(cached, range(over * 2), strict=False) if block not in self._pinned
            ][:over]:
                del cached[block]

    def _unpin(self, request: TraceRequest) -> None:
        self._private -= self._answer_blocks(request)
        for block in request.blocks:
            left = self._pinned[block] - 1
            if left:
                self._pinned[block] = left
            else:
                del self._pinned[block]
