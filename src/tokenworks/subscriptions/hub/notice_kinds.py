"""All kinds of notices: the people who get one, its channels where a person chose nothing, and its limits. Pure.

The texts of a kind are in `tokenworks.texts`, under the kind's name.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final, Literal, get_args

from tokenworks.subscriptions.model import BILLING_ZONE

Channel = Literal["console", "sms", "email", "webhook"]
CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)
# `owner`: the account's owner. `managers`: the owner and the admins. `member`: the member that the notice names. `invited`: the
# invited person, who has no part of the account yet and gets a text message alone.
Recipient = Literal["owner", "managers", "member", "invited"]
# The time of day (in the billing zone) in which a text message that is not urgent may be sent.
SMS_FROM: Final = time(8)
SMS_UNTIL: Final = time(22)
# More than the day for which a delivery is tried.
URGENT_AHEAD: Final = timedelta(days=2)
MARKETING: Final = "marketing"
CONFIRM: Final = "email.confirm"

_ALL: Final = frozenset(CHANNELS)
_QUIET: Final = _ALL - {"sms"}
_MUST: Final = frozenset[Channel]({"console", "sms"})
_SHOWN: Final = frozenset[Channel]({"console"})


@dataclass(frozen=True, slots=True)
class NoticeKind:
    """A kind of notice. `defaults`: its channels where a person chose nothing; e-mail and webhooks need an address that the person
    gave. `required`: the channels that can't be switched off, since law, money or security demand the notice. `day_max`: the most of
    this kind to one person by one channel in 24 hours. `urgent`: it is sent before others, and a text message at night, too.
    """

    name: str
    to: Recipient
    defaults: frozenset[Channel] = _ALL
    required: frozenset[Channel] = frozenset()
    day_max: int = 10
    urgent: bool = False

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels by which a notice of this kind can be sent."""
        if self.to == "invited":
            return ("sms",)
        return ("email",) if self.name == CONFIRM else CHANNELS

    def wants(self, channel: Channel, chosen: bool | None) -> bool:
        """True if a person gets this kind by the channel. `chosen`: the person's choice; None if there is none."""
        if channel not in self.channels:
            return False
        if channel in self.required:
            return True
        return channel in self.defaults if chosen is None else chosen


_KINDS: Final = (
    # Money.
    NoticeKind("spend", "managers"),
    NoticeKind("credit_limit", "owner"),
    NoticeKind("credit_limit.released", "owner"),
    NoticeKind("bill.ready", "managers", _QUIET, _SHOWN),
    NoticeKind("payment.failed", "owner", required=_SHOWN),
    NoticeKind("refund.done", "owner", required=_SHOWN),
    NoticeKind("dunning.remind", "owner", required=_MUST),
    NoticeKind("dunning.restrict", "owner", required=_MUST),
    NoticeKind("dunning.suspend", "owner", required=_MUST),
    NoticeKind("dunning.close", "owner", required=_MUST),
    NoticeKind("dispute.answered", "owner", required=_SHOWN),
    # Plans.
    NoticeKind("balance.low", "managers", day_max=5),
    NoticeKind("balance.used_up", "managers", day_max=5),
    NoticeKind("order.done", "owner", _QUIET),
    NoticeKind("order.failed", "owner"),
    NoticeKind("plan.renewed", "owner", _QUIET),
    NoticeKind("plan.ended", "owner"),
    # A change of a price is told before it applies (Consumer Rights Protection Law of the PRC, articles 8 and 26).
    NoticeKind("plan.move", "owner", required=_MUST),
    # People, and what they sign in with.
    NoticeKind("invitation", "invited", frozenset({"sms"}), day_max=5),
    NoticeKind("sign_in", "member", _QUIET, _SHOWN, day_max=20, urgent=True),
    NoticeKind("key.made", "member", _QUIET, _SHOWN, day_max=20, urgent=True),
    NoticeKind("address.changed", "member", required=_MUST, urgent=True),
    NoticeKind(CONFIRM, "member", frozenset({"email"}), frozenset({"email"}), urgent=True),
    # What the operator tells.
    NoticeKind("incident", "managers", _QUIET, day_max=5, urgent=True),
    NoticeKind(MARKETING, "owner", frozenset({"console", "webhook"}), day_max=1),
)  # fmt: skip
KINDS: Final[dict[str, NoticeKind]] = {kind.name: kind for kind in _KINDS}


def kind_of(name: str) -> NoticeKind | None:
    """The kind of a notice; None for one of another release. `marketing.<campaign>` is of the kind `marketing`."""
    return KINDS.get(MARKETING if name.startswith(f"{MARKETING}.") else name)


def due_from(kind: NoticeKind | None, at: datetime) -> datetime:
    """From when a notice is due, which decides on the order in which notices are read and sent: urgent ones pass those that wait, such
    as the bills of a whole run.
    """
    return at - URGENT_AHEAD if kind is not None and kind.urgent else at


def sms_at(kind: NoticeKind, now: datetime) -> datetime:
    """When a text message may be sent at the earliest: now, or in the morning if it is not urgent."""
    local = now.astimezone(BILLING_ZONE)
    if kind.urgent or SMS_FROM <= local.time() < SMS_UNTIL:
        return now
    morning = datetime.combine(local.date(), SMS_FROM, BILLING_ZONE)
    return (morning if local < morning else morning + timedelta(days=1)).astimezone(now.tzinfo)
