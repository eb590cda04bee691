"""Which model and which deployment a request gets: chosen by intent, placed, waiting where all that may have it are full.

A request that names an intent has a list of models, the best first; one that is to be cheap (`service_tier: flex`) waits for
the cheapest deployment that may have it, until its deadline comes near; any other waits `queue_wait_s` where all are full.
"""

import math
from collections.abc import Sequence
from typing import Final

from tokenworks.charging import SHED, WAITED, Admission, Limit, Queued
from tokenworks.factory import (
    BLOCK_BYTES,
    FLEX,
    NO_ASK,
    PRIORITY,
    STANDARD,
    Ask,
    Candidate,
    Choice,
    Intent,
    Objective,
    Place,
    hash_blocks,
    may_have,
    named_wait_s,
    rank,
    unfit,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.choosing import SAYS_NOTHING, options, wanted_of
from tokenworks.gateway.request.count_tokens import answer_count
from tokenworks.gateway.request.record import Recording
from tokenworks.gateway.request.refusals import over_limit

# What a token is taken for where only its magnitude matters.
BYTES_PER_TOKEN: Final = 4
# Of all places that a request may have, so many are asked for room.
QUEUE_PLACES_MAX: Final = 64
# A deferrable request stops waiting for the cheapest place with this part of its time left.
FLEX_LEFT: Final = 0.1
DEADLINE_S_MAX: Final = 86_400


class Placing(Recording):
    __slots__ = ()

    def _begin_at(self, chosen: Candidate) -> None:
        """Send it there."""
        raise NotImplementedError

    # The model.

    def _choose_model(self, intent: Intent) -> bool:
        """Take the best model for an intent. False where it was refused: none may have this request."""
        shared, user, parsed = self.shared, self.user, self.parsed
        assert user is not None
        self.asked = intent.name
        wanted = wanted_of(parsed, self.protocol, len(self.body) // BYTES_PER_TOKEN)
        ask = self._ask_of(max(1, wanted.input_tokens), max(1, wanted.output_tokens), (), intent.objective)
        found = options(shared, self, intent, wanted, ask)
        self.choices = rank(intent, wanted, found)
        if self._next_choice():
            return True
        self.refuse(
            Refusal(
                404,
                "model_not_found",
                f"no model that this key may use can have this request as {intent.name}: GET /v1/models lists them",
                param="model",
            )
        )
        return False

    def _next_choice(self) -> bool:
        """The next best model of an intent becomes this request's."""
        if not self.choices:
            return False
        choice: Choice = self.choices.pop(0)
        self.model, self.choice = choice.model, choice.reason
        self.route = route = self.shared.snapshot.routes[choice.model, self.protocol]
        self._take_places(route)
        self.ask = None
        self.cuttable = False
        return True

    def _check_model(self) -> Refusal | None:
        """What is declared of the model against what the request brings."""
        shared = self.shared
        snapshot = shared.snapshot
        if not snapshot.cards_of_models and not shared.settings.filing_required:
            return None
        card = snapshot.card_of(self.model)
        required = shared.settings.filing_required
        if len(card.modalities) == len(SAYS_NOTHING) and card.tools and not required:
            return None
        why = unfit(card, wanted_of(self.parsed, self.protocol, 0), filing_required=required)
        if why is None:
            return None
        said = f"{self.model} can't have this request: {why}"
        if why.startswith("filing"):
            return Refusal(403, "model_not_filed", said, param="model")
        return Refusal(400, "unsupported_input", said, param="model")

    # The place.

    def _ask_of(
        self, input_tokens: int, output_tokens: int, blocks: Sequence[int], objective: Objective | None = None
    ) -> Ask:
        user = self.user
        assert user is not None
        service = user.service
        return Ask(
            input_tokens,
            output_tokens,
            blocks,
            BLOCK_BYTES / BYTES_PER_TOKEN,
            "cost" if self.flex else objective or service.objective,
            user.regions,
            None,
            user.home,
            service.edge_first,
        )

    def _what_is_asked(self) -> Ask:
        """For placement: about how long the prompt is, and what it begins with; four bytes are taken for a token."""
        user = self.user
        assert user is not None
        if len(self.places) == 1:
            if user.regions is None and user.home is None:
                return NO_ASK
            return NO_ASK._replace(regions=user.regions, home=user.home)
        return self._ask_of(
            max(1, len(self.body) // BYTES_PER_TOKEN),
            1 if self.free else self.need.output_tokens,
            hash_blocks(self.body),
        )

    def _relay_free(self) -> None:
        """Answer with what costs nothing."""
        raise NotImplementedError

    def _try(self) -> None:
        """Send it to a deployment that was not tried yet."""
        shared = self.shared
        if self.free and answer_count(self, self.route.rules[0].media):
            return
        now_s = shared.loop.time()
        ask = self.ask
        if ask is None:
            ask = self.ask = self._what_is_asked()
        if self.attempt_no:
            # Something was sent already: one more attempt is one of so many that a bad hour may cost.
            chosen = None
            others = any(place.name not in self.tried for place in self.places)
            # Without another place nothing is sent again, and the budget stays whole for who has one.
            if others and len(self.tried) < shared.settings.attempts_max and shared.retries.may_retry(now_s):
                chosen = shared.placement.choose(self.places, self.tried, ask, now_s)
        else:
            if not self.tried:
                shared.retries.request(now_s)
            chosen = shared.placement.choose(self.places, self.tried, ask, now_s)
        if chosen is None:
            self._nowhere(ask)
            return
        if ask is not NO_ASK:
            self._decided(ask, chosen)
        if shared.broken_credentials and chosen.place.name in shared.broken_credentials:
            self.tried.append(chosen.place.name)
            self.last_refusal = Refusal(503, "no_deployment", f"no deployment can take {self.model} now", 5)
            self._try()
            return
        if self.flex and not self.free:
            self._try_cheapest(ask, now_s)
            return
        if shared.snapshot.limits and not self.free:
            self._ask_room(chosen, ask, now_s)
            return
        self._begin_at(chosen)

    def _decided(self, ask: Ask, chosen: Candidate | None) -> None:
        self.parts.decisions.decided(self.request_id, self.model, self.places, self.tried, ask, chosen)

    def _nowhere(self, ask: Ask) -> None:
        """No deployment takes it: the next model of its intent, or a refusal."""
        shared = self.shared
        self._decided(ask, None)
        self._release_hold()
        if self._next_choice():
            self._hold()
            return
        if self.last_refusal is not None:
            self.refuse(self.last_refusal)
            return
        wait_s = named_wait_s(self.places, ask, shared.loop.time())
        if wait_s > 0:
            # Every place has said when it has room again.
            seconds = math.ceil(wait_s)
            said = f"{self.model} is busy: every deployment is at its limit, try again in {seconds} s"
            self.refuse(Refusal(429, "too_many_requests", said, seconds))
            return
        reasons = [may_have(place.deployment, ask) for place in self.places]
        if all(reasons) and any(str(reason).startswith("residency") for reason in reasons):
            allowed = ", ".join(ask.regions or ()) or "no region, by its wish and its consent,"
            self.refuse(
                Refusal(
                    403,
                    "residency",
                    f"no deployment of {self.model} may have this account's data, which may go to {allowed} only",
                    param="model",
                )
            )
            return
        self.refuse(Refusal(503, "no_deployment", f"no deployment can take {self.model} now", 5))

    # Waiting for room.

    def _open(self, ask: Ask, now_s: float) -> list[Candidate]:
        """The places that may have it now, the best first."""
        if ask is NO_ASK:
            return [self.places[0].alone]
        broken = self.shared.broken_credentials
        return [
            candidate
            for candidate in self.shared.placement.explain(self.places, self.tried, ask, now_s)
            if candidate.excluded is None and candidate.place.name not in broken
        ]

    def _ask_room(self, chosen: Candidate, ask: Ask, now_s: float) -> None:
        """Where the best place is under a limit of its own: the best that has room; where none has, wait."""
        limits = self.shared.snapshot.limits
        if chosen.place.name not in limits:
            self._begin_at(chosen)
            return
        ordered = self._open(ask, now_s) or [chosen]
        free = next((candidate for candidate in ordered if candidate.place.name not in limits), None)
        limited = [candidate for candidate in ordered if candidate.place.name in limits]
        if free is not None:
            self._wait_room(limited, STANDARD, 0, free)
            return
        user = self.user
        assert user is not None
        service = PRIORITY if user.service.priority else STANDARD
        wait_ms = self.shared.settings.queue_wait_s * 1000
        if self.queue_until_s:
            wait_ms = max(0, int((self.queue_until_s - now_s) * 1000))
        else:
            self.queue_until_s = now_s + wait_ms / 1000
        self._wait_room(limited, service, wait_ms, None)

    def _wait_room(
        self, candidates: Sequence[Candidate], service: int, wait_ms: int, otherwise: Candidate | None
    ) -> None:
        shared, user = self.shared, self.user
        assert user is not None
        candidates = candidates[:QUEUE_PLACES_MAX]
        limits = tuple(shared.snapshot.limits[candidate.place.name] for candidate in candidates)
        asked_s = shared.loop.time()

        def answered(admission: Admission | None, wait_ms: int, limit: Limit, what: int) -> None:
            self.queue_number = 0
            if self.conn is None or self.ended:
                if admission is not None:
                    shared.client.admissions.end(admission, 0, begun=False)
                return
            now_s = shared.loop.time()
            self.queued_ms += int((now_s - asked_s) * 1000)
            if admission is None:
                if otherwise is not None:
                    self._begin_at(otherwise)
                elif service == FLEX:
                    self._try()
                else:
                    self._full(limit, what, wait_ms)
                return
            chosen = candidates[limits.index(admission.limits[0])]
            place = chosen.place
            bad = place.trial or place.resting_s(now_s) > 0 or (len(self.places) > 1 and place.open(now_s))
            if place.draining or bad:
                # It went bad meanwhile. Alone it is tried all the same: waiting for its cool-down helps nobody.
                shared.client.admissions.end(admission, 0, begun=False)
                self._try()
                return
            self.place_admission = admission
            self._begin_at(chosen)

        tokens = self.need.input_tokens + self.held_output
        queued = Queued(self.model, user.account_id, user.service.weight, service, wait_ms)
        self.queue_number = shared.client.admissions.ask(limits, tokens, answered, queued)

    def _full(self, limit: Limit, what: int, wait_ms: int) -> None:
        self._release_hold()
        if self._next_choice():
            self._hold()
            return
        if what == SHED:
            said = f"as many requests for {self.model} wait as may, and this one was let go"
        elif what == WAITED:
            said = f"all deployments of {self.model} are at their limits, and none came free in {max(1, self.queued_ms // 1000)} s"
        else:
            self.refuse(over_limit("model's deployments", limit, what, wait_ms))
            return
        seconds = max(1, -(-wait_ms // 1000))
        self.refuse(Refusal(503, "overloaded", f"{said}: try again in {seconds} s", seconds))

    # Waiting for the cheapest.

    def _flex_until_s(self) -> float:
        """When it stops waiting for the cheapest: the client may ask for less time than the operator gives."""
        deadline_s = self.shared.settings.flex_deadline_s
        said = self.head.headers.get(b"x-tokenworks-deadline-s", b"")
        if said.isdigit() and len(said) <= 6:
            deadline_s = max(1, min(deadline_s, int(said)))
        return self.began_s + deadline_s * (1.0 - FLEX_LEFT)

    def _try_cheapest(self, ask: Ask, now_s: float) -> None:
        shared = self.shared
        left_s = self._flex_until_s() - now_s
        if left_s <= 0:
            # From here on it is a request like any other, but for what it costs.
            self.flex = False
            self._try()
            return
        found: list[Candidate] = (
            [self.places[0].alone]
            if ask is NO_ASK
            else [
                candidate
                for candidate in shared.placement.explain(self.places, self.tried, ask, now_s)
                if may_have(candidate.place.deployment, ask) is None
                and candidate.place.name not in self.tried
            ]
        )
        least = min((price_of(candidate.place, ask) for candidate in found), default=0)
        cheapest = [candidate for candidate in found if price_of(candidate.place, ask) == least]
        ready = [candidate for candidate in cheapest if candidate.excluded is None]
        limits = shared.snapshot.limits
        free = next((candidate for candidate in ready if candidate.place.name not in limits), None)
        if free is not None:
            self._begin_at(free)
        elif ready:
            self._wait_room(ready, FLEX, max(1, int(left_s * 1000)), None)
        elif self.attempt_no:
            # It was sent and failed: it has waited for the cheap ones long enough.
            self.flex = False
            self._try()
        else:
            self.deferred = True

    def again(self) -> None:
        """It was put off: look again."""
        self.deferred = False
        if self.conn is not None and not self.ended:
            self._try()


def price_of(place: Place, ask: Ask) -> int:
    """What the request costs the operator there where nothing is cached, in nano yuan."""
    return ask.input_tokens * place.fresh_nano + ask.output_tokens * place.output_nano
