"""The model of a request: the one that it names, the best for the intent that it names, or the cheaper one of its plan.

A request that names an intent has a list of models, the best first; the client, the key or the plan may name models to fall back to
after them. If no bucket pays for a model, or no deployment can take the request, the next model is tried (`fallback.py` has all causes).
"""

from typing import Final

from tokenworks.catalog import Counts, amount
from tokenworks.charging import hold_rate
from tokenworks.factory import (
    COMPACT,
    MODALITIES,
    DeploymentView,
    Intent,
    Option,
    PlacementRequest,
    Requirements,
    difficulty,
    features,
    options,
    rank,
    unfit,
)
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import (
    Parsed,
    count_tools,
    last_user_text,
    requested_effort,
)
from tokenworks.gateway.request.fallback import NOT_SERVED, asked_name
from tokenworks.gateway.request.place import BYTES_PER_TOKEN, placement_request_of
from tokenworks.gateway.request.refusals import no_route
from tokenworks.gateway.request.state import KnownRequest
from tokenworks.gateway.request.translating import forget_translation, object_refusal
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.snapshot import Route, allows

# A model with this many modalities excludes none.
ALL_MODALITIES: Final = MODALITIES
# The assumed length of an answer without a maximum.
OUTPUT_TOKENS_GUESSED: Final = 500
# Names of a message's parts in a body, by modality. Inside a text the quotes would be escaped.
_MODALITY_MARKS: Final = {
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
        """Set the request's model, its route and its deployments, or return why it gets none."""
        refusal = self._named(request)
        names = request.parsed.fallbacks
        if names is None:
            names = request.user.fallbacks
        if not names or request.protocol == "embeddings":
            # Vectors of different models can't be compared, so embeddings never fall back.
            return refusal
        request.fallbacks, request.falls_back = names, True
        if (
            refusal is None
            or refusal.code == "model_not_allowed"
            or not self.next_choice(request, NOT_SERVED)
        ):
            return refusal
        return None

    def _named(self, request: KnownRequest) -> Refusal | None:
        """Set the request's model to the one that it names, or return why that can't have it."""
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
            message = f"this key may not use {parsed.model}"
            return Refusal(403, "model_not_allowed", message, param="model")
        if route is None:
            return no_route(snapshot, parsed.model, model, request.protocol)
        return _take_route(request, route) or self._check(request)

    def _choose(self, request: KnownRequest, intent: Intent) -> Refusal | None:
        """Set the request's model to the best for an intent, or return why there is none."""
        self._rank(request, intent)
        while request.choices:
            if self._take_choice(request):
                return None
        return Refusal(
            404,
            "model_not_found",
            f"no model that this key may use can have this request as {intent.name}: GET /v1/models lists them",
            param="model",
        )

    def _rank(self, request: KnownRequest, intent: Intent) -> None:
        """Set the models for an intent, the best first."""
        request.intent = intent.name
        wanted = wanted_of(request.parsed, request.protocol, len(request.body) // BYTES_PER_TOKEN)
        placement_request = placement_request_of(
            request, max(1, wanted.input_tokens), max(1, wanted.output_tokens), (), intent.objective
        )
        request.choices = rank(intent, wanted, self._options(request, intent, wanted, placement_request))

    def next_choice(self, request: KnownRequest, cause: str) -> bool:
        """Set the request's model to the intent's next best or, without one, to the next model to fall back to. False if there is none.
        `cause`: why the request goes on.
        """
        while True:
            if request.choices:
                if self._take_choice(request):
                    return True
                continue
            if not request.fallbacks:
                return False
            name, request.fallbacks = request.fallbacks[0], request.fallbacks[1:]
            if self._fall_back(request, name, cause):
                return True

    def _take_choice(self, request: KnownRequest) -> bool:
        """Set the request's model to the intent's next best. False if that can't have it."""
        choice = request.choices.pop(0)
        request.choice = choice.reason
        return self._set_model(request, choice.model)

    def _fall_back(self, request: KnownRequest, name: str, cause: str) -> bool:
        """Set the request's model to a model to fall back to, or its choices to those of an intent. False if no model was set: the key
        or the plan may not use it, it is not served here, or it can't have the request.
        """
        snapshot, user = self._shared.snapshot, request.user
        model = snapshot.resolve(name)
        route = snapshot.routes.get((model, request.protocol))
        if route is None:
            intent = snapshot.intents.get(model)
            if intent is not None:
                request.shown_model = name
                self._rank(request, intent)
            return False
        if user.models is not None and not allows(user.models, name, model):
            return False
        before = request.model
        request.model = model
        if model == before or self._check(request) is not None:
            request.model = before
            return False
        if not self._set_model(request, model):
            return False
        request.intent, request.choice = asked_name(request.parsed.model), f"fallback after {cause}"
        request.shown_model = name
        return len(request.views) > 0

    def _set_model(self, request: KnownRequest, model: str) -> bool:
        """Set the request's model. False if the request names objects of an upstream, and no deployment of the model speaks its protocol."""
        request.model = model
        if _take_route(request, self._shared.snapshot.routes[model, request.protocol]) is not None:
            return False
        self._begin_anew(request)
        return True

    def _begin_anew(self, request: KnownRequest) -> None:
        """Each model has attempts, a placement and a translation of its own."""
        forget_translation(self._shared, request)
        request.tried, request.passed_over = [], 0
        request.placement_request = None
        request.cuttable = False

    def restrict(self, request: KnownRequest) -> bool:
        """Set the request's model to the plan's cheaper one, since nothing is left for the named one. False if the plan has none."""
        other = request.user.policy.restrict_to
        if other is None or request.restricted or other == request.model:
            return False
        route = self._shared.snapshot.routes.get((other, request.protocol))
        if route is None:
            return False
        before = request.model, request.route, request.views, request.native
        request.model = other
        refusal = _take_route(request, route)
        if refusal is not None or not request.views or self._check(request) is not None:
            request.model, request.route, request.views, request.native = before
            return False
        self._begin_anew(request)
        request.restricted = True
        return True

    def _check(self, request: KnownRequest) -> Refusal | None:
        """The refusal if the model, by its declaration, can't take the request; else None."""
        shared = self._shared
        snapshot, required = shared.snapshot, shared.settings.filing_required
        if not snapshot.cards_of_models and not required:
            return None
        card = snapshot.card_of(request.model)
        if len(card.modalities) == len(ALL_MODALITIES) and card.tools and not required:
            return None
        reason = unfit(card, wanted_of(request.parsed, request.protocol, 0), filing_required=required)
        if reason is None:
            return None
        message = f"{request.model} can't have this request: {reason}"
        if reason.startswith("filing"):
            return Refusal(403, "model_not_filed", message, param="model")
        return Refusal(400, "unsupported_input", message, param="model")

    def _options(
        self, request: KnownRequest, intent: Intent, wanted: Requirements, placement_request: PlacementRequest
    ) -> list[Option]:
        """The models that this subscriber may use, that can take the request, and that a deployment serves now."""
        shared, allowed = self._shared, request.user.models
        found, _ = options(
            shared.snapshot, request.protocol, intent, wanted, placement_request, shared.placement, shared.loop.time(),
            lambda model: self._cost(request, model, wanted),
            may_use=lambda model: allows(allowed, intent.name, model), filing_required=shared.settings.filing_required,
        )  # fmt: skip
        return found

    def _cost(self, request: KnownRequest, model: str, wanted: Requirements) -> tuple[int, str, bool]:
        """(price in thousandths, unit, whether a bucket pays): what the subscriber pays from the first bucket that pays for the model.

        This worker knows only buckets of which it has a slice: none before the subscriber's first request here.
        """
        slices = self._shared.slices
        counts = Counts(fresh_input=wanted.input_tokens, output=wanted.output_tokens)
        for slice_ in slices.account(request.user.account_id).balance:
            rate = hold_rate(slice_.terms, self._shared.rate, model)
            if rate is not None:
                return amount(rate.weights, counts), f"thousandths of a {slice_.terms.unit}", True
        return 0, "", False


def _take_route(request: KnownRequest, route: Route) -> Refusal | None:
    """Set the request's route and its deployments: the route's or, if the request continues an upstream object, the one that made it.
    Returns the refusal of a request that names upstream objects, if no deployment speaks its protocol.
    """
    request.route, request.native, views = route, route.native, route.views
    if request.compaction is not None and request.compaction.relayed:
        views = compacts(route)
        request.native = len(views)
        if not views:
            message = f"no deployment of {request.model} compacts conversations"
            return Refusal(400, "unsupported_operation", message)
    elif route.translates:
        if request.parsed.objects:
            if not route.native:
                return object_refusal(request, request.parsed.objects[0][0])
            views = views[: route.native]
        elif request.free and route.native:
            # A translated count of tokens is answered here, so it is relayed only in the client's own protocol.
            views = views[: route.native]
    made_at = request.object_deployment
    if made_at:
        views = [view for view in views if view.name == made_at]
        request.native = len(views)
    request.views = views
    return None


def compacts(route: Route) -> list[DeploymentView]:
    """The deployments of a route whose vendor compacts conversations."""
    return [view for view in route.views[: route.native] if COMPACT in view.paths]


def modalities_of(parsed: Parsed) -> frozenset[str]:
    """The modalities of a request's input beside text."""
    raw = parsed.fields.get("messages") or parsed.fields.get("input")
    if raw is None:
        return frozenset()
    content = bytes(raw)
    return frozenset(
        [name for name, signs in _MODALITY_MARKS.items() if any(sign in content for sign in signs)]
    )


def wanted_of(parsed: Parsed, protocol: str, input_tokens: int) -> Requirements:
    """The request's demands on a model. `input_tokens`: an estimate; with 0 the difficulty is not worked out."""
    tools = count_tools(parsed)
    hard = 0.0
    if input_tokens:
        hard = difficulty(
            features(last_user_text(parsed, protocol), effort=requested_effort(parsed), tools=tools)
        )
    output = OUTPUT_TOKENS_GUESSED
    if parsed.output_tokens is not None:
        output = min(output, parsed.output_tokens)
    return Requirements(hard, modalities_of(parsed), tools > 0, input_tokens, output)
