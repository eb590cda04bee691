"""How long a place will make a request wait for its first token, learned from what passed through here.

A place is a latency that requests share, and a prefill that they take turns at: so many milliseconds for each token that its
cache does not have. Where a place works on many at once (a vendor's whole fleet), first tokens come closer together than
one after the other, the time a token takes falls towards nothing, and what is left is the latency. And answers that are being
written slow it: how much is learned, too; where a place has fewer slots than requests, it is much.

Pure on its own state and the time that it is given. Times are milliseconds; nothing here is money.
"""

from typing import Final

LATENCY_MS: Final = 50.0
MS_PER_TOKEN: Final = 0.25
# A step of learning: large at first, never less than this; and an error that is believed of one request at most.
GAIN_MIN: Final = 0.05
ERROR_MIN_MS: Final = 50.0
# So many first answers of a place of which nothing is declared are believed; none makes less than this of what was believed.
GUESSES: Final = 8
FACTOR_MIN: Final = 0.2
# Of what a prompt was thought to take: what is still to come where it should have been read by now.
LATE_SHARE: Final = 0.1
# Tokens, and running answers, that weigh as much as the latency in what an error is put down to.
TOKENS_SCALE: Final = 1000.0
RUNNING_SCALE: Final = 4.0
# What an answer that is written slows the next prompt by: at first, and never less, so that it decides between equals.
RUNNING_MS: Final = 1.0


class Forecast:
    """One place. A ticket names a request from its sending to its first token."""

    __slots__ = (
        "_guesses",
        "_last_ms",
        "_pending",
        "_seen",
        "_turns_ms",
        "latency_ms",
        "ms_per_token",
        "running_ms",
        "waiting",
    )

    def __init__(self, latency_ms: float | None = None, ms_per_token: float | None = None) -> None:
        """What is declared of a place. Where its speed is not, the first answers are believed and not what is usual."""
        self.latency_ms = LATENCY_MS if latency_ms is None else latency_ms
        self.ms_per_token = MS_PER_TOKEN if ms_per_token is None else ms_per_token
        self._guesses = GUESSES if ms_per_token is None else 0
        self.running_ms = RUNNING_MS
        # By ticket, oldest first: sent, what it takes itself, uncached tokens, whether they are sure, how many answers were
        # written then. And what all of them take: there may be thousands, and every decision asks.
        self._pending: dict[object, tuple[float, float, int, bool, int]] = {}
        self._turns_ms = 0.0
        # How many requests wait here for their first token.
        self.waiting = 0
        self._last_ms = 0.0
        self._seen = 0

    @property
    def answers(self) -> int:
        """How many first tokens were learned from."""
        return self._seen

    def begin_with(self, latency_ms: float, ms_per_token: float, running_ms: float, answers: int) -> None:
        """What somebody else learned of the place, where nothing was learned here."""
        if not self._seen:
            self.latency_ms, self.ms_per_token, self.running_ms = latency_ms, ms_per_token, running_ms
            self._seen = answers

    @property
    def busy(self) -> bool:
        """Whether a request waits here for its first token."""
        return self.waiting > 0

    def running(self, outstanding: int) -> int:
        """How many of the place's requests have had their first token."""
        return max(0, outstanding - self.waiting)

    def wait_ms(self, now_ms: float) -> float:
        """Until all that was sent before has its first token."""
        pending = self._pending
        if not pending:
            return 0.0
        sent_ms, own_ms, *_ = next(iter(pending.values()))
        begun_ms = max(self._last_ms, sent_ms)
        left_ms = own_ms - (now_ms - begun_ms)
        # What is late comes at any moment, or was misjudged: a place that nothing waits at is better.
        return self._turns_ms - own_ms + (left_ms if left_ms > 0.0 else LATE_SHARE * own_ms)

    def own_ms(self, uncached_tokens: int) -> float:
        """What a request takes of the place's turns."""
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
        """`sure`: little of the prompt is believed to be cached, so that its time says what a token takes."""
        if own_ms is None:
            own_ms = self.own_ms(uncached_tokens)
        self._pending[ticket] = (now_ms, own_ms, uncached_tokens, sure, running)
        self._turns_ms += own_ms
        self.waiting = len(self._pending)

    def first_token(self, ticket: object, now_ms: float) -> float | None:
        """A request's first token has come: learn from it. Returns its time to first token; None where it was dropped."""
        turn = self._take(ticket)
        if turn is None:
            return None
        sent_ms, _, tokens, sure, running = turn
        begun_ms = self._last_ms
        self._last_ms = now_ms
        if sure:
            taken_ms = now_ms - max(sent_ms, begun_ms)
            self._learn(taken_ms, tokens, running, with_latency=sent_ms >= begun_ms)
        return now_ms - sent_ms

    def _take(self, ticket: object) -> tuple[float, float, int, bool, int] | None:
        turn = self._pending.pop(ticket, None)
        self.waiting = len(self._pending)
        if turn is not None:
            # Nothing is left of sums of floats where nothing waits.
            self._turns_ms = self._turns_ms - turn[1] if self._pending else 0.0
        return turn

    def _learn(self, taken_ms: float, tokens: int, running: int, *, with_latency: bool) -> None:
        """Put what was unforeseen down to latency, rate and load, by how much each had a part (normalised least mean squares)."""
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
        """The first answers of a place of which nothing is known: what is usual may be wrong by any factor, so what was unforeseen is
        put down to each part as a factor, by how much of the whole it was thought to be.
        """
        parts = (self.latency_ms if with_latency else 0.0, self.own_ms(tokens), self.running_ms * running)
        self._seen += 1
        step = error_ms / self._seen / (sum(part * part for part in parts) + 1e-9)
        latency, own, crowd = (max(FACTOR_MIN, 1.0 + step * part) for part in parts)
        self.latency_ms *= latency
        self.ms_per_token *= own
        self.running_ms = max(RUNNING_MS, self.running_ms * crowd)

    def dropped(self, ticket: object) -> None:
        """A request ended without a first token, or is not waited for any more."""
        self._take(ticket)
