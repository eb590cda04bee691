"""Consents: the texts that are shown, and what a subscriber said to them last.

Each purpose has a text in each language. An operator replaces one by a file `<purpose>.<language>.txt` in `consent_texts_dir`.
What somebody agreed to is kept by the hash of the text that was shown, with the text.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from tokenworks.charging import Ledger
from tokenworks.kernel import Clock, Invalid, Unavailable, flaw
from tokenworks.subscriptions.errors import ConsentTextChanged
from tokenworks.subscriptions.model import ConsentText, Language, PrivacyRules, Subscriber
from tokenworks.subscriptions.people import people_store, privacy_store

PURPOSES: Final = ("terms", "marketing", "spill_over", "data_cross_border")
LANGUAGES: Final[tuple[Language, ...]] = ("zh", "en")
# Of these hosts hear: they say what is served, and where.
_SERVED_BY: Final = frozenset({"terms", "data_cross_border", "spill_over"})
CONSENT_TEXT_CHARS_MAX: Final = 100_000
_TEXTS: Final[dict[tuple[str, Language], str]] = {
    ("terms", "zh"): (
        "我同意按所订购套餐的价格和期限使用本服务：用量按词元计量，费用计入话费账单；我可以随时取消套餐，并可随时查询、导出或删除"
        "我的个人信息。撤回同意后，本服务不再受理我的新请求和新订购；此前产生的费用仍须支付。"
    ),
    ("terms", "en"): (
        "I agree to use this service at the prices and for the periods of what I order. Usage is counted in tokens and charged to "
        "the phone bill. I can cancel a plan at any time, and see, export or erase my personal data at any time. If I withdraw "
        "this consent, no new request and no new order of mine is taken; what was used until then is still to be paid."
    ),
    ("marketing", "zh"): "我同意接收关于新套餐和优惠活动的消息。不同意不影响本服务的使用；我可以随时撤回。",
    ("marketing", "en"): (
        "I agree to be told of new plans and offers. The service is the same without this consent, and I can withdraw it at any "
        "time."
    ),
    ("spill_over", "zh"): (
        "我同意在套餐词元用完后继续按随用随付计费，费用不超过我设定的每月上限。我可以随时撤回；撤回后，套餐用完即停止服务。"
    ),
    ("spill_over", "en"): (
        "I agree that usage goes on as pay-as-you-go when my plan's tokens are used up, at most up to my monthly cap. I can "
        "withdraw this at any time; then the service stops when the plan is used up."
    ),
    ("data_cross_border", "zh"): (
        "我单独同意将我的请求内容发送至境外的模型服务提供者处理，仅用于生成回答。撤回同意后，我的请求只在境内处理；没有境内部署的模型"
        "将不可用。"
    ),
    ("data_cross_border", "en"): (
        "I agree, separately, that what I send may be processed by model providers outside my country, only in order to answer "
        "it. If I withdraw this consent, my requests are processed inside the country alone; models without a deployment there "
        "can't be used."
    ),
}


@dataclass(frozen=True, slots=True)
class ConsentState:
    """A purpose's text as it is shown now, and what a subscriber said last: None where nothing was said."""

    text: ConsentText
    given: bool | None
    said_at: datetime | None
    said_sha256: str | None
    # What was agreed to is not what is shown now: it is to be asked again.
    text_changed: bool


class ConsentTexts:
    """The texts of this installation, read when they are asked for. `folder`: where an operator's own are."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def text(self, purpose: str, language: Language) -> ConsentText:
        """Raises `Invalid` on another purpose, `Unavailable` where the operator's file can't be read."""
        if purpose not in PURPOSES:
            raise Invalid(f"a consent is for {', '.join(sorted(PURPOSES))}")
        text = _TEXTS[purpose, language]
        if self._folder is not None:
            path = self._folder / f"{purpose}.{language}.txt"
            try:
                text = path.read_text(encoding="utf-8-sig").strip()
            except FileNotFoundError:
                return ConsentText(purpose, language, text)
            except (OSError, UnicodeDecodeError) as error:
                raise Unavailable(f"the consent text {path} can't be read: {error}") from None
            found = flaw(text, lines=True)
            if found is not None or not 0 < len(text) <= CONSENT_TEXT_CHARS_MAX:
                raise Unavailable(f"the consent text {path} has {found or 'no text, or too much'}")
        return ConsentText(purpose, language, text)

    def of(self, purpose: str) -> list[ConsentText]:
        """A purpose's text in every language."""
        return [self.text(purpose, language) for language in LANGUAGES]


class Consents:
    """On one connection, with the rooms that it uses."""

    def __init__(
        self,
        connection: people_store.Connection,
        ledger: Ledger,
        clock: Clock,
        rules: PrivacyRules,
        texts: ConsentTexts,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._clock = clock
        self._rules = rules
        self._texts = texts

    def keep(
        self,
        subscriber: Subscriber,
        purpose: str,
        *,
        given: bool,
        text_sha256: str | None = None,
        said_by: str = "subscriber",
    ) -> None:
        """Keep what a subscriber agrees to, or takes back, with the hash of the text that was shown: `text_sha256`, or the
        subscriber's language's as it is now. Hosts hear of what they enforce.

        Raises `Invalid`, and `ConsentTextChanged` where another text is shown now.
        """
        text = self._texts.text(purpose, subscriber.language)
        if text_sha256 is not None:
            now_shown = {one.sha256: one for one in self._texts.of(purpose)}
            if text_sha256 not in now_shown:
                raise ConsentTextChanged(f"the text on {purpose} has changed: read it again")
            text = now_shown[text_sha256]
        with self._connection.transaction():
            privacy_store.add_consent(
                self._connection, subscriber.subscriber_id, purpose, given, self._clock.now(), text, said_by
            )
            if purpose == "spill_over":
                # What pay-as-you-go asks: one consent, however it was said.
                people_store.set_subscriber(self._connection, subscriber.subscriber_id, spill_over=given)
            if purpose in _SERVED_BY:
                self._ledger.tell_account(subscriber.account_id)

    def said(self, subscriber: Subscriber) -> dict[str, bool]:
        """What was said last of each purpose."""
        return privacy_store.consents(self._connection, subscriber.subscriber_id)

    def text(self, purpose: str, language: Language) -> ConsentText:
        """What is shown of a purpose now."""
        return self._texts.text(purpose, language)

    def states(self, subscriber: Subscriber, language: Language | None = None) -> list[ConsentState]:
        """Every purpose with its text and what the subscriber said last of it."""
        said = privacy_store.last_consents(self._connection, subscriber.subscriber_id)
        states = []
        for purpose in PURPOSES:
            given, at, sha256 = said.get(purpose, (None, None, None))
            current = {text.sha256 for text in self._texts.of(purpose)}
            text = self._texts.text(purpose, language or subscriber.language)
            changed = given is True and sha256 is not None and sha256 not in current
            states.append(ConsentState(text, given, at, sha256, text_changed=changed))
        return states

    def agrees_to_marketing(self, subscriber_id: UUID) -> bool:
        """Asked when a message is made and again when it is sent: a consent may be withdrawn in between."""
        return privacy_store.consents(self._connection, subscriber_id).get("marketing") is True

    def regions_of(self, subscriber: Subscriber) -> tuple[str, ...] | None:
        """Where requests may be sent, by the subscriber's wish and by consent; None: anywhere; empty: nowhere."""
        said = privacy_store.consents(self._connection, subscriber.subscriber_id)
        return self._rules.regions(subscriber.regions, said.get("data_cross_border"))

    def refused_by(self, subscriber: Subscriber) -> Literal["terms"] | None:
        """The consent without which nothing is served, where it is missing."""
        said = privacy_store.consents(self._connection, subscriber.subscriber_id)
        return None if self._rules.terms_ok(said.get("terms")) else "terms"
