"""Consents: the texts that are shown, and each subscriber's last answer to them.

Each purpose has a text in each language. An operator replaces a text by a file `<purpose>.<language>.txt` in `consent_texts_dir`.
A consent is stored with the text that was shown and its hash.
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
# Changes of these consents are sent to all hosts: they decide what is served, and where.
_HOST_PURPOSES: Final = frozenset({"terms", "data_cross_border", "spill_over"})
CONSENT_TEXT_CHARS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class ConsentState:
    """A purpose's text as it is shown now, and a subscriber's last answer; None where there is no answer."""

    text: ConsentText
    given: bool | None
    answered_at: datetime | None
    answered_sha256: str | None
    # The subscriber agreed to another text than the one that is shown now, and must be asked again.
    text_changed: bool


class ConsentTexts:
    """The texts of this installation, read at each call. `folder`: the operator's own texts."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def text(self, purpose: str, language: Language) -> ConsentText:
        """The text of a purpose. Raises `Invalid` for an unknown purpose, `Unavailable` if the operator's file can't be read."""
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
    """Stores and reads consents, on one connection."""

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
        """Store a consent, or its withdrawal, with the text that was shown: the one with the hash `text_sha256`, or the present
        text in the subscriber's language. Hosts get the consents that they enforce.

        Raises `Invalid`, and `ConsentTextChanged` if no text with this hash is shown now.
        """
        text = self._texts.text(purpose, subscriber.language)
        if text_sha256 is not None:
            current = {shown.sha256: shown for shown in self._texts.of(purpose)}
            if text_sha256 not in current:
                raise ConsentTextChanged(f"the text on {purpose} has changed: read it again")
            text = current[text_sha256]
        with self._connection.transaction():
            privacy_store.add_consent(
                self._connection, subscriber.subscriber_id, purpose, given, self._clock.now(), text, said_by
            )
            if purpose == "spill_over":
                # Pay-as-you-go reads the subscriber's column.
                people_store.set_subscriber(self._connection, subscriber.subscriber_id, spill_over=given)
            if purpose in _HOST_PURPOSES:
                self._ledger.notify_hosts(subscriber.account_id)

    def latest_answers(self, subscriber: Subscriber) -> dict[str, bool]:
        """A subscriber's last answers, by purpose."""
        return privacy_store.consents(self._connection, subscriber.subscriber_id)

    def text(self, purpose: str, language: Language) -> ConsentText:
        """The text that is shown for a purpose now."""
        return self._texts.text(purpose, language)

    def states(self, subscriber: Subscriber, language: Language | None = None) -> list[ConsentState]:
        """Every purpose with its text and the subscriber's last answer."""
        answers = privacy_store.last_consents(self._connection, subscriber.subscriber_id)
        states = []
        for purpose in PURPOSES:
            given, at, sha256 = answers.get(purpose, (None, None, None))
            current = {text.sha256 for text in self._texts.of(purpose)}
            text = self._texts.text(purpose, language or subscriber.language)
            changed = given is True and sha256 is not None and sha256 not in current
            states.append(ConsentState(text, given, at, sha256, text_changed=changed))
        return states

    def agrees_to_marketing(self, subscriber_id: UUID) -> bool:
        """True if the subscriber agrees to marketing. Callers check this when a notice is made and again when it is sent, since
        the consent may be withdrawn in between.
        """
        return privacy_store.consents(self._connection, subscriber_id).get("marketing") is True

    def regions_of(self, subscriber: Subscriber) -> tuple[str, ...] | None:
        """The regions that requests may be sent to, by the subscriber's profile and its consents. None: all; empty: none."""
        answers = self.latest_answers(subscriber)
        return self._rules.regions(subscriber.regions, answers.get("data_cross_border"))

    def refused_by(self, subscriber: Subscriber) -> Literal["terms"] | None:
        """The missing consent because of which requests are refused; None if there is none."""
        return None if self._rules.terms_ok(self.latest_answers(subscriber).get("terms")) else "terms"
