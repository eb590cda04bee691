"""The rows that a batch of usage records becomes: COPY lines, draws on grants, and the next link of each account's chain. Pure."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from tokenworks.charging.errors import RecordRefused
from tokenworks.charging.ledger import chain
from tokenworks.charging.messages import Amount, UsageRecord
from tokenworks.charging.model import PER_UNIT, decode_record
from tokenworks.charging.routing_note import note_text
from tokenworks.kernel import uuid7

# The number of the first posting line of a loss; lines of buckets are below it.
_LOSS_LINE: Final = 1_000_000
_NULL: Final = "\\N"
# Text without characters that COPY interprets, and without other control characters.
_PLAIN: Final = re.compile(r"[^\\\x00-\x1f]*").fullmatch
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_json: Final = msgspec.json.Encoder().encode

USAGE_COLUMNS: Final = """account_id, usage_id, request_id, attempt_no, key_id, member_id, protocol, model, deployment, state, reason,
    counted_by, started_at, ended_at, first_byte_ms, latency_ms, fresh_input, cached_input, cache_write, audio_input, output, reasoning,
    audio_output, cache_write_1h, provider_total, parts, loss, flags, upstream_id, prompt, asked, choice, journal_id, seq, entry_id"""
# Only a replayed record has a value in the last two, so that the line, and so the digest, of any other record is as it was before.
ALL_USAGE_COLUMNS: Final = f"{USAGE_COLUMNS}, replay_of, replay_percent"
POSTING_COLUMNS: Final = "account_id, entry_id, line_no, ledger_account, unit, bucket_id, amount"

UnsettledRecord = tuple[int, str, Sequence[Amount], bytes]
"""A usage record of a journal, before settlement: (sequence, account, amount used of each grant, record as JSON)."""


class AccountRows:
    """What the records of one account change: draws on grants, and the head of the account's chain."""

    __slots__ = ("after", "draws", "seq")

    def __init__(self, draws: dict[str, int], seq: int, after: chain.Head) -> None:
        # Grant (hex) -> the amount drawn from it.
        self.draws = draws
        self.seq = seq
        self.after = after


class BatchRows:
    """The rows of a batch: a list of COPY lines per table, the changes per account, tokens at risk by (account, day), losses by cause."""

    def __init__(self, journal_id: UUID, now: datetime, ref: str) -> None:
        self._journal = journal_id.hex
        self._now = now.isoformat()
        self._now_us = int(now.timestamp()) * 1_000_000 + now.microsecond
        self._ref = ref
        self.usage: list[str] = []
        self.replays: list[str] = []  # of replayed records, with `ALL_USAGE_COLUMNS`
        self.entries: list[str] = []
        self.postings: list[str] = []
        self.windows: list[str] = []
        self.links: list[str] = []
        self.accounts: dict[str, AccountRows] = {}
        self.risks: Counter[tuple[str, str]] = Counter()
        self.lost: Counter[str] = Counter()
        self.records = 0
        self._seconds: dict[int, str] = {}

    def add(
        self,
        account_id: str,
        records: Sequence[tuple[int, UsageRecord | bytes]],
        before: chain.Head,
        paid: Collection[str],
        *,
        chain_id: str | None = None,
        seq: int | None = None,
    ) -> None:
        """Add the records of one account, in the journal's order, as JSON or decoded.

        `before`: the head of the chain that gets the link. `paid`: grants that are already charged (written-off ones, and those that
        were closed when they were made). `chain_id` and `seq`: another chain than the journal's, and the sequence of its link. Raises
        `RecordRefused`.
        """
        entry_id = uuid7()
        entry = entry_id.hex
        # Plain dicts, because this runs for every usage record.
        draws: dict[str, int] = {}
        paid_units: dict[tuple[str, str], int] = {}
        digests: list[tuple[str, bytes]] = []
        usage, journal, time_of = self.usage, self._journal, self._time
        lost_tokens = 0
        for at_seq, found in records:
            record = decode_record(found) if isinstance(found, bytes) else found
            if record.account_id != account_id:
                raise RecordRefused("its account is not the one that the journal names")
            usage_id, ended = record.usage_id, time_of(record.ended_ms)
            for bucket_id, grant_id, _, unit, kind, amount, _, _ in record.parts:
                if amount <= 0:
                    continue
                if kind == "balance":
                    key = (bucket_id, unit)
                    paid_units[key] = paid_units.get(key, 0) + amount
                elif kind == "window":
                    self.windows.append(
                        f"{account_id}\t{_text(bucket_id)}\t{_text(usage_id)}\t{ended}\t{amount}\n"
                    )
                if grant_id not in paid:
                    draws[grant_id] = draws.get(grant_id, 0) + amount
            for cause, _, counts in record.loss:
                tokens = sum(counts)
                self.lost[cause] += tokens
                lost_tokens += tokens
            if record.risk_tokens > 0:
                self.risks[account_id, ended[:10]] += record.risk_tokens
            line = usage_line(record, time_of(record.started_ms), ended, journal, at_seq, entry)
            digests.append((usage_id, chain.usage_digest(line)))
            (usage if record.replay_of is None else self.replays).append(line)
        try:
            rows = chain.rows_of(digests)
        except ValueError as error:
            raise RecordRefused("its usage id is invalid") from error
        self.records += len(records)
        postings = _postings(paid_units, lost_tokens)
        self.entries.append(f"{account_id}\t{entry}\tusage\t{self._ref}\t{self._now}\n")
        self.postings += [
            f"{account_id}\t{entry}\t{no}\t{account}\t{_text(unit)}\t{_text(bucket)}\t{amount}\n"
            for no, account, unit, bucket, amount in postings
        ]
        last = records[-1][0] if seq is None else seq
        made = chain.link(
            before, last, entry_id, chain.entry_digest(entry, "usage", self._ref, self._now_us, postings), rows
        )  # fmt: skip
        self.links.append(link_line(account_id, chain_id or self._journal, made))
        self.accounts[account_id] = AccountRows(draws, last, chain.Head(last, made.link_no, made.hash))

    def _time(self, ms: int) -> str:
        """The text of `datetime.isoformat` in UTC. The text of each second is cached: a batch spans few seconds."""
        second, rest = divmod(ms, 1000)
        text = self._seconds.get(second)
        if text is None:
            try:
                text = self._seconds[second] = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            except (OverflowError, ValueError, OSError) as error:
                raise RecordRefused(f"a time that is invalid: {ms} ms") from error
        return f"{text}.{rest:03}000+00:00" if rest else f"{text}+00:00"


def link_line(account_id: str, chain_id: str, made: chain.Link) -> str:
    """A COPY line for the table `chain_link`."""
    return (
        f"{account_id}\t{chain_id}\t{made.link_no}\t{made.entry_id.hex}\t{made.seq}\t\\\\x{made.rows.hex()}"
        f"\t\\\\x{made.hash.hex()}\n"
    )


def _postings(paid: Mapping[tuple[str, str], int], lost_tokens: int) -> list[chain.PostingLine]:
    lines: list[chain.PostingLine] = []
    for (bucket_id, unit), amount in sorted(paid.items()):
        lines.append((len(lines) + 1, "customer_liability", unit, bucket_id, -amount))
        lines.append((len(lines) + 1, "used", unit, bucket_id, amount))
    if lost_tokens:
        lost = PER_UNIT * lost_tokens
        lines.append((_LOSS_LINE, "produced", "token", None, -lost))
        lines.append((_LOSS_LINE + 1, "operator_loss", "token", None, lost))
    return lines


def _text(value: str | None) -> str:
    if value is None:
        return _NULL
    return value if value.isalnum() or _PLAIN(value) else value.translate(_ESCAPES)


def _flags(flags: Sequence[str]) -> str:
    quoted = ",".join('"{}"'.format(flag.replace("\\", "\\\\").replace('"', '\\"')) for flag in flags)
    return _text("{" + quoted + "}")


def usage_line(
    record: UsageRecord, started: str, ended: str, journal_id: str, seq: int, entry_id: str
) -> str:
    """The COPY line of a usage record, which its digest covers. `started` and `ended` are in ISO 8601. The line of a replayed record has
    two columns more.
    """
    r, c = record, record.c
    texts = (r.account_id, r.usage_id, r.request_id, r.key_id, r.member_id, r.protocol, r.model, r.deployment, r.state, r.reason,
             r.counted_by)  # fmt: skip
    # One test for all texts together, since a text hardly ever needs an escape.
    joined = "".join(texts)
    if not joined.isprintable() or "\\" in joined:
        texts = tuple([value.translate(_ESCAPES) for value in texts])  # type: ignore[assignment]
    account, usage, request, key, member, protocol, model, deployment, state, reason, counted_by = texts
    first_byte = _NULL if r.first_byte_ms is None else r.first_byte_ms
    total = _NULL if r.provider_total is None else r.provider_total
    parts = _json(r.parts).decode()
    if "\\" in parts:
        parts = parts.translate(_ESCAPES)
    loss = _text(_json(r.loss).decode()) if r.loss else _NULL
    choice = r.choice
    if r.tried or r.client_request_id is not None or r.tags is not None:
        choice = note_text(choice, r.tried, r.client_request_id, r.tags)
    return (
        f"{account}\t{usage}\t{request}\t{r.attempt_no}\t{key}\t{member}\t{protocol}\t{model}\t{deployment}\t{state}\t{reason}"
        f"\t{counted_by}\t{started}\t{ended}\t{first_byte}\t{r.latency_ms}\t{c[0]}\t{c[1]}\t{c[2]}\t{c[3]}\t{c[4]}\t{c[5]}\t{c[6]}"
        f"\t{c[7]}\t{total}\t{parts}\t{loss}\t{_flags(r.flags) if r.flags else '{}'}\t{_text(r.upstream_id)}\t{r.prompt}"
        f"\t{_text(r.asked)}\t{_text(choice)}\t{journal_id}\t{seq}\t{entry_id}{_replay_fields(r)}\n"
    )


def _replay_fields(record: UsageRecord) -> str:
    """The last two columns of a replayed record's line; "" for any other record."""
    of, percent = record.replay_of, record.replay_percent
    if of is None and percent is None:
        return ""
    return f"\t{_text(of)}\t{_NULL if percent is None else percent}"
