"""The request to a deployment: its head, its body, and the time limits of its answer."""

import math
from typing import Final

from tokenworks.factory import COMPACT, DeploymentView
from tokenworks.factory.facts.profiles import Endpoint
from tokenworks.gateway.http.headers import forwarded, translated_lines
from tokenworks.gateway.protocol.fields import allowed_query, render
from tokenworks.gateway.request.place import Placements
from tokenworks.gateway.request.state import AnsweredAttempt, ArrivedRequest
from tokenworks.gateway.shared import Shared

# The assumed speed of an answer that is not streamed, if another deployment could be tried.
UNSTREAMED_TOKENS_PER_S: Final = 100
# A first byte may be this many times later than predicted, if another deployment could be tried.
LATE_TIMES: Final = 4.0
FORWARD_MEMO_MAX: Final = 100
_COUNTED: Final[dict[str, Endpoint]] = {"messages": "count_tokens", "responses": "input_tokens"}


class RequestRenderer:
    __slots__ = ("_placements", "_shared")

    def __init__(self, shared: Shared, placements: Placements) -> None:
        self._shared = shared
        self._placements = placements

    def body(self, attempt: AnsweredAttempt) -> bytes:
        """The body for the attempt's deployment. Sets `dropped` to the fields that were removed."""
        request, view = attempt.request, attempt.view
        parsed, translated = attempt.parsed, attempt.translated
        maximum = None if request.free else request.maximum
        if request.compaction is not None and by_own_route(request):
            maximum = None
        body, dropped = render(
            parsed,
            request.body if translated is None else parsed.body,
            view.deployment,
            view.profile,
            maximum=maximum,
            usage=not request.free,
        )
        attempt.dropped = (*parsed.dropped, *dropped) if dropped else parsed.dropped
        if translated is not None and translated.dropped:
            attempt.dropped = tuple(dict.fromkeys((*translated.dropped, *attempt.dropped)))
        return body

    def head(self, attempt: AnsweredAttempt) -> bytes:
        """The head for a deployment up to the content length. Only a traced request has a part of its own in it."""
        head, trace = self._untraced_head(attempt), attempt.request.trace
        return head if trace is None else trace.head(head)

    def _untraced_head(self, attempt: AnsweredAttempt) -> bytes:
        """The head, which is remembered with the client's head until the snapshot or a credential changes."""
        request, view, slot = attempt.request, attempt.view, attempt.slot
        number, forward = self._shared.heads_number, request.head.forward
        name = view.name if slot is None else slot.name
        compacts = request.compaction is not None and by_own_route(request)
        if compacts:
            name += " " + COMPACT  # a request for a summary has the same head, and another path
        memo = forward.get(name)
        if memo is not None and memo[0] == number:
            known: bytes = memo[1]
            return known
        deployment, protocol = view.deployment, attempt.protocol
        passing = allowed_query(protocol, request.head.query).decode()
        query = f"?{passing}" if passing else ""
        endpoint: Endpoint = _COUNTED[protocol] if request.free else protocol  # type: ignore[assignment]
        if compacts:
            endpoint = COMPACT
        host = deployment.host if ":" not in deployment.host else f"[{deployment.host}]"
        port = "" if deployment.port == (443 if deployment.tls else 80) else f":{deployment.port}"
        reference = deployment.credential if slot is None else slot.reference
        credential = self._shared.snapshot.credentials.get(reference or "")
        lines = (f"POST {view.paths[endpoint]}{query} HTTP/1.1\r\nhost: {host}{port}\r\n").encode()
        if attempt.translated is None:
            lines += forwarded(request.head, view.profile)
        else:
            lines += translated_lines(request.head, protocol)
        if credential:
            lines += view.auth_lines(endpoint, credential)
        lines += b"accept-encoding: identity\r\ncontent-length: "
        if len(forward) < FORWARD_MEMO_MAX or name in forward:
            forward[name] = (number, lines)
        return lines

    def patience_s(self, attempt: AnsweredAttempt) -> int:
        """The time limit to the first byte of the answer.

        A stream's first byte is predicted, and one that is much later will not come soon. An answer that is not streamed comes as a
        whole, so it may take as long as the request, unless another deployment could be tried.
        """
        settings, request = self._shared.settings, attempt.request
        parsed = request.parsed
        if not parsed.stream:
            until_s = request.began_s + settings.request_timeout_s
            left_s = max(1, math.ceil(until_s - self._shared.loop.time()))
            if not self._placements.has_others(request):
                return left_s
            writing_s = (parsed.output_tokens or 0) // UNSTREAMED_TOKENS_PER_S
            return min(left_s, max(settings.upstream_first_byte_timeout_s, writing_s))
        if not self._placements.has_others(request):
            return settings.upstream_first_byte_timeout_s
        late_s = math.ceil(LATE_TIMES * attempt.foreseen_ms / 1000.0)
        return min(settings.upstream_first_byte_timeout_s, max(settings.failover_patience_s, late_s))

    def idle_timeout_s(self, view: DeploymentView) -> int:
        """The time limit between two bytes."""
        return view.deployment.idle_timeout_s or self._shared.settings.upstream_idle_timeout_s


def by_own_route(request: ArrivedRequest) -> bool:
    """True if the request goes to the vendor's own route for compactions, which knows no maximum of tokens."""
    compaction = request.compaction
    return compaction is not None and compaction.relayed and compaction.by_route
