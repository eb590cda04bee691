"""The translation of a request for deployments that do not speak the client's protocol.

The client's body, without what its protocol's allow-list removes, is translated, and the result is read by the allow-list of the
deployment's protocol like a client's body. So a translation can't send what a native client couldn't send: no object of an upstream,
no URL that was not checked, no tool that the vendor would run.
"""

from typing import Final

from tokenworks.factory import DeploymentView
from tokenworks.factory.facts.profiles import thinks_adaptively
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields import (
    BodyError,
    Parsed,
    count_values,
    note_defect,
    parse_body,
    passing_body,
)
from tokenworks.gateway.request.state import AnsweredAttempt, ArrivedRequest, KnownRequest, TranslatedRequest
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.translate.codec import Naming, Target
from tokenworks.gateway.translate.directions import upstream_protocol
from tokenworks.gateway.translate.translation import Translation, TranslationFailed, Untranslatable

# A translation keeps the request twice beside the client's body: in the intermediate form, and in the deployment's protocol.
COPIES: Final = 2
# A translation reads each value of a body, which takes about a microsecond: a body with more values would block the loop for too long.
# Bodies of fewer bytes are not counted.
VALUES_MAX: Final = 100_000
# Numbers and literals of a list, which take far less each, have only a comma between them.
COMMAS_MAX: Final = 1_000_000
COUNTED_BYTES: Final = 200_000
_MS_PER_S: Final = 1000


class Translations:
    __slots__ = ("_shared",)

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def prepare(self, request: KnownRequest, view: DeploymentView) -> Refusal | None:
        """Set `request.translated` to the request for this deployment, or return why there is none. Nothing is sent."""
        protocol = upstream_protocol(request.protocol, view.deployment.protocols)
        assert protocol is not None
        target = target_of(request, view)
        known = request.translated
        if known is not None and known.protocol == protocol and known.target == target:
            return None
        self.forget(request)
        memory, size = self._shared.memory, COPIES * len(request.body)
        if not memory.take(request.address, size):
            return memory.refusal(request.address, size)
        try:
            request.translated = _translated(request, protocol, target, size)
        except Untranslatable as error:
            if error.__cause__ is not None and isinstance(error.__cause__, Exception):
                note_defect(error.__cause__, protocol)
            memory.give(request.address, size)
            return untranslatable(request, protocol, error.message, error.param)
        except BodyError as error:
            memory.give(request.address, size)
            return untranslatable(request, protocol, error.refusal.message, error.refusal.param or "")
        return None

    def prepare_any(self, request: KnownRequest) -> Refusal | None:
        """As `prepare`, for the first deployment whose protocol can express the request; else the first refusal."""
        refusal, refused = None, set[str | None]()
        for view in request.views:
            protocol = upstream_protocol(request.protocol, view.deployment.protocols)
            if protocol not in refused:
                found = self.prepare(request, view)
                if found is None:
                    return None
                refusal = refusal or found
                refused.add(protocol)
        return refusal

    def alike(self, request: KnownRequest, view: DeploymentView) -> list[str]:
        """The deployments for which the request is written in the same protocol as for this one: what that can't express is the
        client's own, so they are not tried after it.
        """
        protocol = upstream_protocol(request.protocol, view.deployment.protocols)
        return [
            other.name
            for other in request.views
            if upstream_protocol(request.protocol, other.deployment.protocols) == protocol
        ]

    def forget(self, request: ArrivedRequest) -> None:
        forget_translation(self._shared, request)

    def naming(self, attempt: AnsweredAttempt, translated: TranslatedRequest) -> Naming:
        request = attempt.request
        created_s = request.started_ms // _MS_PER_S
        return translated.translation.naming(request.request_id, request.shown_model, created_s)


def forget_translation(shared: Shared, request: ArrivedRequest) -> None:
    """Give back the memory of a translation."""
    translated = request.translated
    if translated is not None:
        request.translated = None
        shared.memory.give(request.address, translated.memory_bytes)


def target_of(request: KnownRequest, view: DeploymentView) -> Target:
    """What a codec has to know of a deployment. Signatures of reasoning are sent back if all deployments of the model are of one
    profile: then the one that made them is of it, too.
    """
    profile = view.profile
    return Target(
        default_max_tokens=view.deployment.max_output_tokens,
        reasoning_switch=profile.reasoning_switch,
        reasoning_field=profile.reasoning_field,
        adaptive_thinking=thinks_adaptively(profile, view.deployment.upstream_model),
        structured_output=profile.structured_output,
        system_turns=profile.system_turns,
        signed_reasoning={other.profile.profile for other in request.route.views} == {profile.profile},
    )


def speaks(request: ArrivedRequest, view: DeploymentView) -> bool:
    """True if the deployment speaks the client's protocol."""
    return request.protocol in view.deployment.protocols


def untranslatable(request: KnownRequest, protocol: str, message: str, param: str) -> Refusal:
    text = f"{request.model} is served over {protocol}, which can't express this request: {message}"
    return Refusal(400, "untranslatable", text, param=param or None)


def object_refusal(request: KnownRequest, param: str) -> Refusal:
    """The refusal of a request that names an object of an upstream which does not speak the client's protocol."""
    message = (
        f"{param} names an object of an upstream, and requests for {request.model} are translated to another protocol, whose upstream"
        " does not have it: send its content"
    )
    return Refusal(400, "untranslatable", message, param=param)


def failure_noted(error: TranslationFailed, protocol: str) -> None:
    """Log the defect behind a translation that failed, without content."""
    if isinstance(error.__cause__, Exception):
        note_defect(error.__cause__, protocol)


def _translated(request: KnownRequest, protocol: str, target: Target, memory_bytes: int) -> TranslatedRequest:
    """Raises `Untranslatable`, `BodyError`."""
    if len(request.body) > COUNTED_BYTES:
        if count_values(request.body) > VALUES_MAX:
            raise Untranslatable("", f"it has more than {VALUES_MAX} values")
        if request.body.count(b",") > COMMAS_MAX:
            raise Untranslatable("", f"it has more than {COMMAS_MAX} commas")
    body, unlisted = passing_body(request.parsed)
    translation = Translation(request.protocol, protocol, body, target)
    parsed = parse_body(translation.body, protocol)
    _check(request.parsed, parsed)
    dropped = tuple(dict.fromkeys((*request.parsed.dropped, *unlisted, *translation.dropped)))
    return TranslatedRequest(translation, target, parsed, dropped, memory_bytes)


def _check(client: Parsed, translated: Parsed) -> None:
    """Raise `Untranslatable` if the translated body would have the upstream fetch or look up something that was not checked."""
    if translated.objects:
        param = translated.objects[0][0]
        raise Untranslatable(param, f"{param} names an object of another upstream: send its content")
    if not set(translated.links) <= set(client.links):
        raise Untranslatable("", "it would have another URL fetched than the request names")
    if translated.choices != client.choices:
        raise Untranslatable("n", "it has one answer for each request")
