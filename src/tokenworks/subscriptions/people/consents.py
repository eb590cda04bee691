"""Consents: the texts that are shown, and what a subscriber said to them last.

Each purpose has a text in each language. An operator replaces one by a file `<purpose>.<language>.txt` in `consent_texts_dir`.
What somebody agreed to is kept by the hash of the text that was shown, with the text.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from psycopg import Connection

from tokenworks.charging import Ledger
from tokenworks.kernel import Clock, Invalid, Unavailable, flaw
from tokenworks.subscriptions.errors import ConsentTextChanged
from tokenworks.subscriptions.model import ConsentText, PrivacyRules, Subscriber
from tokenworks.subscriptions.people import people_store, privacy_store
from tokenworks.texts import CATALOGUES, LANGUAGES, Language

PURPOSES: Final = ("terms", "marketing", "spill_over", "data_cross_border")
# Of these hosts hear: they say what is served, and where.
_SERVED_BY: Final = frozenset({"terms", "data_cross_border", "spill_over"})
CONSENT_TEXT_CHARS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class ConsentState:
    """A purpose's text as it is shown now, and what a subscriber said last: None where nothing was said."""

    text: ConsentText
    given: bool | None
    answered_at: datetime | None
    answered_sha256: str | None
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
        text = CATALOGUES[language].consents[purpose]
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
        connection: Connection,
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

    def latest_answers(self, subscriber: Subscriber) -> dict[str, bool]:
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
