"""The parts that handle a worker's requests. They are made once and handed to every exchange; no part keeps a request's state."""

from tokenworks.gateway.http.pools import Pools
from tokenworks.gateway.request.answer import Answers
from tokenworks.gateway.request.choose import Models
from tokenworks.gateway.request.decisions import DecisionLog
from tokenworks.gateway.request.hold import Holds
from tokenworks.gateway.request.losses import Losses
from tokenworks.gateway.request.place import Placements
from tokenworks.gateway.request.record import Records
from tokenworks.gateway.request.send import RequestRenderer
from tokenworks.gateway.request.translating import Translations
from tokenworks.gateway.shared import Shared


class Parts:
    __slots__ = (
        "answers",
        "holds",
        "models",
        "placements",
        "pools",
        "records",
        "renderer",
        "shared",
        "translations",
    )

    def __init__(self, shared: Shared, pools: Pools) -> None:
        self.shared = shared
        self.pools = pools
        self.models = Models(shared)
        self.holds = Holds(shared)
        self.placements = Placements(shared, DecisionLog(shared))
        self.renderer = RequestRenderer(shared, self.placements)
        self.translations = Translations(shared)
        self.answers = Answers(shared, self.placements, self.translations)
        self.records = Records(shared, Losses(shared))
