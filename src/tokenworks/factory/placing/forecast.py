"""How long a request will wait for its first token at a deployment, learned from observed first tokens.

The model of a deployment is a latency that all requests share, and a prefill that serves one prompt at a time: so many milliseconds
for each token that the cache does not have. If a deployment works on many prompts at once (a vendor's whole fleet), first tokens
arrive closer together than one after the other; the learned time per token then falls towards zero and the latency remains. Running
answers slow the prefill; the slope is learned as well, and is large if a deployment has fewer slots than requests.

The module depends on its own state and the time it is given alone. Times are milliseconds; nothing here is money.
"""

from typing import Final

LATENCY_MS: Final = 50.0
MS_PER_TOKEN: Final = 0.25
# The gain of a learning step is large at first and never below GAIN_MIN. The error of one request is bounded by what was predicted,
# or by ERROR_MIN_MS if that is more.
GAIN_MIN: Final = 0.05
ERROR_MIN_MS: Final = 50.0
# If nothing is declared of a deployment, its first GUESSES answers set the values as factors; no factor is below FACTOR_MIN.
GUESSES: Final = 8
FACTOR_MIN: Final = 0.2
# A prompt that should have been read by now is assumed to need this share of its predicted time still.
LATE_SHARE: Final = 0.1
# An error is attributed to latency, tokens and running answers; so many tokens or running answers weigh as much as the latency.
TOKENS_SCALE: Final = 1000.0
RUNNING_SCALE: Final = 4.0
# By how much a running answer delays the next prompt: the initial value and the minimum, so that it decides between equal scores.
RUNNING_MS: Final = 1.0


class Forecast:
    """The forecast for one deployment. A ticket names a request from its sending to its first token."""

    __slots__ = (
        "_guesses",
        "_last_ms",
        "_pending",
        "_prefill_ms",
        "_seen",
        "latency_ms",
        "ms_per_token",
        "running_ms",
        "waiting",
    )

    def __init__(self, latency_ms: float | None = None, ms_per_token: float | None = None) -> None:
        """The declared latency and speed. Without a declared speed the first answers set the values, not the defaults."""
        self.latency_ms = LATENCY_MS if latency_ms is None else latency_ms
        self.ms_per_token = MS_PER_TOKEN if ms_per_token is None else ms_per_token
        self._guesses = GUESSES if ms_per_token is None else 0
        self.running_ms = RUNNING_MS
        # By ticket, oldest first: (time sent, its own prefill time, uncached tokens, whether that number is sure, running answers at that
        # time). The sum of the prefill times is kept beside them, because there may be thousands and every choice reads it.
        self._pending: dict[object, tuple[float, float, int, bool, int]] = {}
        self._prefill_ms = 0.0
        # How many requests wait for their first token.
        self.waiting = 0
        self._last_ms = 0.0
        self._seen = 0

    @property
    def answers(self) -> int:
        """How many first tokens the forecast has learned from."""
        return self._seen

    def begin_with(self, latency_ms: float, ms_per_token: float, running_ms: float, answers: int) -> None:
        """Take over what another worker learned of the deployment, if nothing was learned here."""
        if not self._seen:
            self.latency_ms, self.ms_per_token, self.running_ms = latency_ms, ms_per_token, running_ms
            self._seen = answers

    @property
    def busy(self) -> bool:
        """True if a request waits for its first token."""
        return self.waiting > 0

    def running(self, outstanding: int) -> int:
        """How many of the requests in flight have had their first token."""
        return max(0, outstanding - self.waiting)

    def wait_ms(self, now_ms: float) -> float:
        """Time until every request that was sent before has its first token."""
        pending = self._pending
        if not pending:
            return 0.0
        sent_ms, own_ms, *_ = next(iter(pending.values()))
        begun_ms = max(self._last_ms, sent_ms)
        left_ms = own_ms - (now_ms - begun_ms)
        # The first token of a late prompt may come at any moment, or the prediction was wrong: a deployment without a queue is better.
        return self._prefill_ms - own_ms + (left_ms if left_ms > 0.0 else LATE_SHARE * own_ms)

    def own_ms(self, uncached_tokens: int) -> float:
        """The prefill time of a request's own prompt."""
        return self.ms_per_token * uncached_tokens

    def sent(
        self,
        ticket: object,
        now_ms: float,
        uncached_tokens: int,
        *,
        sure: bool,
        running: int = 0,
        own_ms: float | None = None,
    ) -> None:
        """A request was sent. `sure`: little of its prompt is assumed to be cached, so its time tells what a token takes."""
        if own_ms is None:
            own_ms = self.own_ms(uncached_tokens)
        self._pending[ticket] = (now_ms, own_ms, uncached_tokens, sure, running)
        self._prefill_ms += own_ms
        self.waiting = len(self._pending)

    def first_token(self, ticket: object, now_ms: float) -> float | None:
        """Learn from a request's first token. Returns its time to first token, or None if the request was dropped before."""
        pending = self._take(ticket)
        if pending is None:
            return None
        sent_ms, _, tokens, sure, running = pending
        begun_ms = self._last_ms
        self._last_ms = now_ms
        if sure:
            taken_ms = now_ms - max(sent_ms, begun_ms)
            self._learn(taken_ms, tokens, running, with_latency=sent_ms >= begun_ms)
        return now_ms - sent_ms

    def _take(self, ticket: object) -> tuple[float, float, int, bool, int] | None:
        pending = self._pending.pop(ticket, None)
        self.waiting = len(self._pending)
        if pending is not None:
            # Set the sum to zero when nothing waits, so that rounding errors do not add up.
            self._prefill_ms = self._prefill_ms - pending[1] if self._pending else 0.0
        return pending

    def _learn(self, taken_ms: float, tokens: int, running: int, *, with_latency: bool) -> None:
        """Attribute the error to latency, rate and load, each by its part in the prediction (normalised least mean squares)."""
        expected_ms = (
            self.own_ms(tokens) + self.running_ms * running + (self.latency_ms if with_latency else 0.0)
        )
        if self._seen < self._guesses:
            self._guess(taken_ms - expected_ms, tokens, running, with_latency=with_latency)
            return
        bound_ms = max(expected_ms, ERROR_MIN_MS)
        error_ms = max(-bound_ms, min(bound_ms, taken_ms - expected_ms))
        self._seen += 1
        gain = max(GAIN_MIN, 1.0 / (self._seen + 1))
        share = 1.0 if with_latency else 0.0
        scaled = tokens / TOKENS_SCALE
        crowd = running / RUNNING_SCALE
        step = gain * error_ms / (share + scaled * scaled + crowd * crowd + 1e-9)
        self.running_ms = max(RUNNING_MS, self.running_ms + step * crowd / RUNNING_SCALE)
        self.ms_per_token = max(0.0, self.ms_per_token + step * scaled / TOKENS_SCALE)
        self.latency_ms = max(0.0, self.latency_ms + step * share)

    def _guess(self, error_ms: float, tokens: int, running: int, *, with_latency: bool) -> None:
        """Learn from the first answers of a deployment without declared speed. The defaults may be wrong by any factor, so each part of
        the prediction is multiplied by a factor, according to its share of the whole.
        """
        parts = (self.latency_ms if with_latency else 0.0, self.own_ms(tokens), self.running_ms * running)
        self._seen += 1
        step = error_ms / self._seen / (sum(part * part for part in parts) + 1e-9)
        latency, own, crowd = (max(FACTOR_MIN, 1.0 + step * part) for part in parts)
        self.latency_ms *= latency
        self.ms_per_token *= own
        self.running_ms = max(RUNNING_MS, self.running_ms * crowd)

    def dropped(self, ticket: object) -> None:
        """A request ended without a first token, or its first token is not awaited any more."""
        self._take(ticket)
