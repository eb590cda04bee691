"""Makes what another system had: deployments, aliases, members, keys. A second run makes nothing twice.

Nothing is wider here than it was there: a key with a budget that can't be read as tokens, or of a holder that is left out, is left out.
"""

import hashlib
import os
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.importing.model import (
    Findings,
    Foreign,
    ForeignDeployment,
    ForeignHolder,
    ForeignKey,
    ForeignLimits,
    LeftOut,
)
from tokenworks.factory import make_deployment
from tokenworks.kernel import Conflict, TokenworksError
from tokenworks.subscriptions import Subscriber

FILE_PREFIX: Final = "import-"
_NAME_CHARS: Final = 40


class Choices(NamedTuple):
    """The operator's choices. `tokens_per_usd`: the tokens that a dollar of a budget becomes. `reissue`: keys get new texts."""

    subscriber: str | None = None
    tokens_per_usd: int | None = None
    without_budgets: bool = False
    allow_private: bool = False
    reissue: bool = False


class Issued(NamedTuple):
    """A key that got a new text."""

    name: str
    key_id: UUID
    text: str


class Importing:
    """One run on one connection, in one transaction of the caller."""

    def __init__(self, services: AppServices, foreign: Foreign, choices: Choices, secrets_dir: Path) -> None:
        self._services = services
        self._foreign = foreign
        self._choices = choices
        self._secrets_dir = secrets_dir
        self.findings: Findings = foreign.findings
        self.issued: list[Issued] = []
        self._secrets: dict[str, str] = {}
        self._members: dict[str, UUID] = {}

    def run(self) -> None:
        """Make everything but the files of secrets."""
        for deployment in self._foreign.deployments:
            self._each(
                f"deployment {deployment.name} of {deployment.fields['model']}", self._deployment, deployment
            )
        known = self._services.deployments.aliases()
        for alias, model in self._foreign.aliases.items():
            self._each(f"alias {alias} of {model}", self._alias, (alias, model, known.get(alias)))
        if not self._foreign.holders and not self._foreign.keys:
            return
        if self._choices.subscriber is None:
            reason = "name the --subscriber whose account pays for them"
            for what, count in (
                ("teams and users", len(self._foreign.holders)),
                ("keys", len(self._foreign.keys)),
            ):
                self.findings.add("left_out", f"{count} {what}", reason)
            return
        subscriber = self._services.subscriptions.find(self._choices.subscriber)
        for holder in sorted(self._foreign.holders, key=lambda holder: not holder.department):
            self._each(holder.ref, self._holder, (subscriber, holder))
        for key in self._foreign.keys:
            self._each(f"key {key.name}", self._key, (subscriber, key))

    def write_secrets(self) -> list[Path]:
        """Write the credentials as files that only their owner may read. Returns the new files. A file with the
        same content stays as it is; raises `Conflict` if one has another.
        """
        made: list[Path] = []
        try:
            for name, text in self._secrets.items():
                path = self._secrets_dir / name
                try:
                    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                except FileExistsError:
                    if path.is_file() and path.read_bytes() == text.encode():
                        continue
                    raise Conflict(f"{path} is there with another content: move it elsewhere first") from None
                made.append(path)
                with os.fdopen(file, "w", encoding="utf-8") as out:
                    out.write(text)
                    out.flush()
                    os.fsync(out.fileno())
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        return made

    def _each(self, what: str, make: object, item: object) -> None:
        """Make one row in a savepoint: its error is the reason why it is left out."""
        assert callable(make)
        try:
            with self._services.transaction():
                there, reason = make(item)
        except (TokenworksError, LeftOut) as error:
            self.findings.add("left_out", what, str(error))
        else:
            self.findings.add("there_already" if there else "taken", what)
            if reason and not there:
                self.findings.add("approximated", what, reason)

    def _deployment(self, foreign: ForeignDeployment) -> tuple[bool, str]:
        if any(known.name == foreign.name for known in self._services.deployments.all()):
            return True, ""
        reason, credential = "", None
        if foreign.secret is not None:
            credential = f"file:{FILE_PREFIX}{foreign.name}"
        elif foreign.secret_name is not None:
            name = "".join(
                char if char.isascii() and char.isalnum() else "_" for char in foreign.secret_name
            ).upper()[:60]
            credential = f"env:TOKENWORKS_UPSTREAM_{name}"
            reason = f"its credential was in the variable {foreign.secret_name}: set TOKENWORKS_UPSTREAM_{name} for the server"
        made = make_deployment(
            name=foreign.name, credential=credential, allow_private=self._choices.allow_private, draining=foreign.draining, **foreign.fields
        )  # fmt: skip
        self._services.deployments.add(made)
        self._limit("deployment", made.name, None, foreign.limits)
        if foreign.secret is not None:
            self._secrets[f"{FILE_PREFIX}{foreign.name}"] = foreign.secret
        return False, reason

    def _alias(self, item: tuple[str, str, str | None]) -> tuple[bool, str]:
        alias, model, known = item
        if known is None:
            self._services.deployments.set_alias(alias, model)
        elif known != model:
            raise LeftOut(f"it stands for {known} here")
        return known is not None, ""

    def _limit(self, scope: str, ref: str, account_id: UUID | None, limits: ForeignLimits) -> None:
        if limits:
            self._services.ledger.set_limit(
                scope, ref, account_id, requests_per_min=limits.requests_per_min, tokens_per_min=limits.tokens_per_min,
                streams_max=limits.streams_max,
            )  # fmt: skip

    def _tokens(self, usd: Decimal | None) -> int | None:
        """A budget in tokens; None for no cap. Raises `LeftOut` if the budget is spent or can't be read as tokens."""
        if usd is None or self._choices.without_budgets:
            return None
        if self._choices.tokens_per_usd is None:
            raise LeftOut("its budget is in dollars: say --tokens-per-usd, or --without-budgets")
        tokens = int(usd * self._choices.tokens_per_usd)
        if tokens <= 0:
            raise LeftOut("its budget is spent")
        return tokens

    @staticmethod
    def _said_of_budget(usd: Decimal | None, tokens: int | None) -> str:
        if usd is None:
            return ""
        return (
            "its budget is not kept"
            if tokens is None
            else f"its budget of {usd.normalize():f} dollars is a cap of {tokens} tokens"
        )

    def _holder(self, item: tuple[Subscriber, ForeignHolder]) -> tuple[bool, str]:
        subscriber, holder = item
        digits = hashlib.sha256(holder.ref.encode()).hexdigest()[:8]
        # The name tells it from members of ours: a member with the same name could be one without a cap.
        name = f"{holder.name[:_NAME_CHARS].strip()} ({self._foreign.system} {digits})"
        found = next((m for m in self._services.members.of(subscriber) if m.name == name), None)
        if found is not None:
            self._members[holder.ref] = found.member_id
            return True, ""
        parent = None
        if holder.parent is not None:
            if holder.parent not in self._members:
                raise LeftOut(f"its {holder.parent} is left out")
            parent = str(self._members[holder.parent])
        tokens = self._tokens(holder.usd)
        made = self._services.members.add(
            subscriber,
            name,
            department=holder.department,
            parent=parent,
            cap_tokens=tokens,
            cap_period=holder.period,
        )
        self._limit("member", str(made.member_id), subscriber.account_id, holder.limits)
        self._members[holder.ref] = made.member_id
        return False, self._said_of_budget(holder.usd, tokens)

    def _key(self, item: tuple[Subscriber, ForeignKey]) -> tuple[bool, str]:
        subscriber, key = item
        if self._services.keys.imported(key.sha256_hex) is not None:
            return True, ""
        if key.holder is not None and key.holder not in self._members:
            raise LeftOut(f"its {key.holder} is left out")
        tokens = self._tokens(key.usd)
        key_id, text = self._services.access.issue_key(
            subscriber, None if key.holder is None else self._members[key.holder], key.name, models=key.models, cap_tokens=tokens,
            expires_at=key.expires_at, imported_sha256=key.sha256_hex, reissue=self._choices.reissue,
        )  # fmt: skip
        self._limit("key", str(key_id), subscriber.account_id, key.limits)
        if self._choices.reissue:
            self.issued.append(Issued(key.name, key_id, text))
        return False, self._said_of_budget(key.usd, tokens)
