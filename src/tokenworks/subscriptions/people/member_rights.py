"""The rights of a member in another person's account, such as a child or an employee: its own export, and its own erasure.

Bills, consents and the account belong to the owner, and are not part of these. Usage keeps only the member's id.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from tokenworks.charging import Ledger, LoggedContent, Transfers
from tokenworks.kernel import Clock, Invalid
from tokenworks.subscriptions.errors import MemberNotFound
from tokenworks.subscriptions.model import Member
from tokenworks.subscriptions.people import people_store, privacy_store
from tokenworks.trust import Identity, Keys, PersonVault

FORMAT: Final = "tokenworks-member-export-1"
USAGE_AT_ONCE: Final = 500


class MemberRights:
    """Exports and erases members, on one connection."""

    def __init__(
        self,
        vault: PersonVault,
        ledger: Ledger,
        transfers: Transfers,
        keys: Keys,
        identity: Identity,
        clock: Clock,
        forget_answers: Callable[[UUID, UUID], None],
        logged_content: Callable[[UUID, UUID], Iterator[LoggedContent]],
        export_more: Callable[[Member], Mapping[str, object]],
    ) -> None:
        """`forget_answers(account, member)`: deletes the stored answers to requests with keys of a member, and its notices;
        `logged_content(account, member)`: the logged ones. `export_more`: what else is stored of a member: its notices and their
        addresses.
        """
        self._vault = vault
        self._forget_answers = forget_answers
        self._logged_content = logged_content
        self._export_more = export_more
        self._ledger = ledger
        self._transfers = transfers
        self._keys = keys
        self._identity = identity
        self._clock = clock

    def export(self, member: Member) -> Iterator[bytes]:
        """All that is stored of a member, as one JSON document in pieces: name, number, keys, sessions, transfers, usage, and
        the requests and answers that its keys have logged.
        """
        own = {
            "format": FORMAT,
            "made_at": self._clock.now(),
            "member": {
                "member_id": member.member_id, "name": member.name, "phone": member.phone, "role": member.role,
                "state": member.state, "cap_tokens": member.cap_tokens, "cap_period": member.cap_period,
                "created_at": member.created_at,
            },
            # The account's consents are its owner's: a member has none.
            "consents": [],
            "keys": [self._key(key_id) for key_id in sorted(self._keys.all_of_member(member.member_id))],
            "sessions": [
                {"since": s.created_at, "until": s.expires_at, "address": s.address, "client": s.client,
                 "seen_at": s.seen_at, "seen_address": s.seen_address}
                for s in self._identity.sessions(member.subscriber_id, member.member_id)
            ],
            "transfers": [
                {"at": t.made_at, "amount_mtok": t.amount, "gives": t.from_member_id == member.member_id, "reason": t.reason}
                for t in self._transfers.of_account(member.account_id)
                if member.member_id in {t.from_member_id, t.to_member_id}
            ],
            **self._export_more(member),
        }  # fmt: skip
        yield f'{_json(own)[:-1]},\n"usage": ['.encode()
        before: UUID | None = None
        while records := self._usage(member, before):
            lines = ",\n".join(_json(record) for record in records)
            yield f"{'' if before is None else ','}\n{lines}".encode()
            last_id = records[-1]["usage_id"]
            assert isinstance(last_id, UUID)
            before = last_id
        yield b'\n],\n"content_log": ['
        for number, logged in enumerate(self._logged_content(member.account_id, member.member_id)):
            yield f"{',' if number else ''}\n{_json(_content(logged))}".encode()
        yield b"\n]}\n"

    def _key(self, key_id: UUID) -> dict[str, object]:
        found = self._keys.info(key_id)
        assert found is not None, "a key is never deleted"
        return {
            "name": found.name, "hint": found.hint, "models": found.models, "created_at": found.created_at,
            "expires_at": found.expires_at, "revoked_at": found.revoked_at, "used_at": found.used_at,
        }  # fmt: skip

    def _usage(self, member: Member, before: UUID | None) -> Sequence[Mapping[str, object]]:
        found, _ = self._ledger.usage_page(
            member.account_id, None, member.member_id, 0, USAGE_AT_ONCE, before=before
        )
        return found

    def forget_answers(self, member: Member) -> None:
        """Delete the stored answers to requests with keys of this member, in the caller's transaction."""
        self._forget_answers(member.account_id, member.member_id)

    def erase(self, member: Member) -> None:
        """Erase a member: destroy the key of its name and number, revoke its API keys, end its sessions, and delete what these
        store of the person. Its usage stays in the account's bills, under its id alone. A repeated call changes nothing.

        Raises `Invalid` for the owner, whose erasure is the account's, and for a department, and `MemberNotFound`.
        """
        if member.role in {"owner", "department"}:
            raise Invalid(f"a {member.role} is erased with the account")
        with self._vault.connection.transaction():
            people_store.lock_subscriber(self._vault, member.subscriber_id)
            found = next(iter(people_store.line_of(self._vault, member.member_id)), None)
            if found is None:
                raise MemberNotFound("there is no such member")
            for key_id in self._keys.of_member(found.member_id):
                self._keys.revoke(key_id)
            self._keys.forget_names_of_member(found.member_id)
            self._identity.end_other_sessions(found.subscriber_id, found.member_id)
            self._identity.forget_places_of_member(found.member_id)
            self._transfers.forget_of_member(found.account_id, found.member_id)
            self.forget_answers(found)
            privacy_store.forget_member(self._vault.connection, found.member_id)
            self._vault.destroy([found.member_id])


def _content(logged: LoggedContent) -> dict[str, object]:
    """A logged request. Content may be cut within a character, or be no text."""
    return logged.entry._asdict() | {
        "request": logged.request.decode(errors="replace"),
        "answer": logged.answer.decode(errors="replace"),
    }


def _json(value: object) -> str:
    return json.dumps(value, default=_json_value, ensure_ascii=False)


def _json_value(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
