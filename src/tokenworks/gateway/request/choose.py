"""Which model a request gets: the one that it names, the best for the intent that it names, or the one that its plan goes on with.

A request that names an intent has a list of models, the best first: where one is paid for by no bucket or has no room,
the next one's turn comes.
"""

from typing import Final

from tokenworks.catalog import Counts, amount
from tokenworks.charging import hold_rate
from tokenworks.factory import (
    MODALITIES,
    Intent,
    Option,
    PlacementRequest,
    Wanted,
    difficulty,
    features,
    options,
    rank,
    unfit,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import Parsed, asked_effort, asked_text, count_tools
from tokenworks.gateway.request.place import BYTES_PER_TOKEN, placement_request_of
from tokenworks.gateway.request.refusals import no_route
from tokenworks.gateway.request.state import KnownRequest
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.snapshot import Route, allows

# As many modalities as there are: nothing is excluded.
SAYS_NOTHING: Final = MODALITIES
# An answer is thought to have so many tokens where nothing is said.
OUTPUT_TOKENS_GUESSED: Final = 500
# What a part of a message is called in a body, by what it brings. Inside a text the quotes would be escaped.
_SIGNS: Final = {
    "image": (b'"image_url"', b'"input_image"', b'"type":"image"', b'"type": "image"'),
    "audio": (b'"input_audio"', b'"audio_url"'),
    "video": (b'"video_url"', b'"input_video"'),
    "file": (b'"input_file"', b'"type":"file"', b'"type": "file"', b'"type":"document"', b'"type": "document"'),
}  # fmt: skip


class Models:
    __slots__ = ("_shared",)

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def find(self, request: KnownRequest) -> Refusal | None:
        """Give the request its model, the model's route and places; or say why it gets none."""
        snapshot, parsed, user = self._shared.snapshot, request.parsed, request.user
        request.model = model = snapshot.model_for(
            parsed.model, request.protocol, user.models, user.service.default_model
        )
        route = snapshot.routes.get((model, request.protocol))
        if route is None and request.protocol != "embeddings":
            intent = snapshot.intents.get(model)
            if intent is not None:
                return self._choose(request, intent)
        if user.models is not None and not allows(user.models, parsed.model, model):
            said = f"this key may not use {parsed.model}"
            return Refusal(403, "model_not_allowed", said, param="model")
        if route is None:
            return no_route(snapshot, parsed.model, model, request.protocol)
        request.route, request.places = route, route.views
        return self._check(request)

    def _choose(self, request: KnownRequest, intent: Intent) -> Refusal | None:
        """Give the request the best model for an intent."""
        request.intent = intent.name
        wanted = wanted_of(request.parsed, request.protocol, len(request.body) // BYTES_PER_TOKEN)
        placement_request = placement_request_of(
            request, max(1, wanted.input_tokens), max(1, wanted.output_tokens), (), intent.objective
        )
        request.choices = rank(intent, wanted, self._options(request, intent, wanted, placement_request))
        if self.next_choice(request):
            return None
        return Refusal(
            404,
            "model_not_found",
            f"no model that this key may use can have this request as {intent.name}: GET /v1/models lists them",
            param="model",
        )

    def next_choice(self, request: KnownRequest) -> bool:
        """The next best model of an intent becomes the request's. False where there is none."""
        if not request.choices:
            return False
        choice = request.choices.pop(0)
        request.model, request.choice = choice.model, choice.reason
        request.route = route = self._shared.snapshot.routes[choice.model, request.protocol]
        _take_views(request, route)
        request.ask = None
        request.cuttable = False
        return True

    def restrict(self, request: KnownRequest) -> bool:
        """The plan goes on with a cheaper model where nothing is left for the one that was asked for. False where it does not."""
        other = request.user.policy.restrict_to
        if other is None or request.restricted or other == request.model:
            return False
        route = self._shared.snapshot.routes.get((other, request.protocol))
        if route is None:
            return False
        before = request.model, request.route, request.places
        request.model, request.route = other, route
        _take_views(request, route)
        if not request.places or self._check(request) is not None:
            request.model, request.route, request.places = before
            return False
        request.restricted = True
        return True

    def _check(self, request: KnownRequest) -> Refusal | None:
        """What is declared of the model against what the request brings."""
        shared = self._shared
        snapshot, required = shared.snapshot, shared.settings.filing_required
        if not snapshot.cards_of_models and not required:
            return None
        card = snapshot.card_of(request.model)
        if len(card.modalities) == len(SAYS_NOTHING) and card.tools and not required:
            return None
        why = unfit(card, wanted_of(request.parsed, request.protocol, 0), filing_required=required)
        if why is None:
            return None
        said = f"{request.model} can't have this request: {why}"
        if why.startswith("filing"):
            return Refusal(403, "model_not_filed", said, param="model")
        return Refusal(400, "unsupported_input", said, param="model")

    def _options(
        self, request: KnownRequest, intent: Intent, wanted: Wanted, placement_request: PlacementRequest
    ) -> list[Option]:
        """The models that this subscriber may use, that can do it, and that a place serves now."""
        shared, allowed = self._shared, request.user.models
        found, _ = options(
            shared.snapshot, request.protocol, intent, wanted, placement_request, shared.placement, shared.loop.time(),
            lambda model: self._cost(request, model, wanted),
            may_use=lambda model: allows(allowed, intent.name, model), filing_required=shared.settings.filing_required,
        )  # fmt: skip
        return found

    def _cost(self, request: KnownRequest, model: str, wanted: Wanted) -> tuple[int, str, bool]:
        """What the subscriber pays by the first of his buckets that pays for the model: (thousandths, of which unit, whether one does).

        Of his buckets this worker knows those that it has a part of: none, before his first request here.
        """
        slices = self._shared.slices
        counts = Counts(fresh_input=wanted.input_tokens, output=wanted.output_tokens)
        for slice_ in slices.account(request.user.account_id).balance:
            rate = hold_rate(slice_.terms, self._shared.rate, model)
            if rate is not None:
                return amount(rate.weights, counts), f"thousandths of a {slice_.terms.unit}", True
        return 0, "", False


def _take_views(request: KnownRequest, route: Route) -> None:
    """The places of a route; of a request that goes on with an upstream's object the one where that was made."""
    made_at = request.object_place
    request.places = [p for p in route.views if p.name == made_at] if made_at else route.views


def modalities_of(parsed: Parsed) -> frozenset[str]:
    """What a request brings beside text."""
    raw = parsed.fields.get("messages") or parsed.fields.get("input")
    if raw is None:
        return frozenset()
    content = bytes(raw)
    return frozenset([name for name, signs in _SIGNS.items() if any(sign in content for sign in signs)])


def wanted_of(parsed: Parsed, protocol: str, input_tokens: int) -> Wanted:
    """`input_tokens`: about; 0 where nobody asks how hard it is."""
    tools = count_tools(parsed)
    hard = 0.0
    if input_tokens:
        hard = difficulty(features(asked_text(parsed, protocol), effort=asked_effort(parsed), tools=tools))
    output = OUTPUT_TOKENS_GUESSED
    if parsed.output_tokens is not None:
        output = min(output, parsed.output_tokens)
    return Wanted(hard, modalities_of(parsed), tools > 0, input_tokens, output)
