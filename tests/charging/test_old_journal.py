"""A journal of the release before messages had types is settled by this one as that release settled it, and this one still writes it so.

Invariant: what a journal holds settles the same whichever release wrote it.
"""

import asyncio
import tarfile
from pathlib import Path
from uuid import UUID

import pytest

from tests.charging.ledger.test_accounts import findings
from tests.charging.ledger.test_unpaid_store import Account
from tests.support import old_journal
from tokenworks.charging import read_frames, records_after
from tokenworks.charging.errors import JournalCorrupt
from tokenworks.charging.host.journal import HEADER, pack
from tokenworks.charging.ledger import settle_store
from tokenworks.charging.model import CAP_RATE

ARCHIVE = Path(__file__).parent / "journals" / "untyped.tar.gz"
JOURNAL_ID = UUID(old_journal.JOURNAL_ID)
# What the release that wrote it settles: by bucket in thousandths of a token, and tokens that the operator bears by cause.
USED = {"tokens": 320_000, "cap": 9_000, "first": 14_000, "second": 16_000}
LOST = {"worker_lost": 2, "client_gone": 7}
RECORDS = 157
INTERRUPTED = 5
SEGMENTS_MIN = 5


def unpack(folder):
    folder.mkdir()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def payloads(folder):
    """(first sequence, payloads) of each segment."""
    return [
        (int(path.stem), [frame.payload for frame in read_frames(path.read_bytes(), path, JOURNAL_ID, int(path.stem))])
        for path in sorted(folder.glob("*.seg"))
    ]  # fmt: skip


def put(folder, names):
    """The journal with other ids in the place of those that it was written with: `names`, which are as long."""
    for path in folder.glob("*.seg"):
        data, first = path.read_bytes(), int(path.stem)
        frames = list(read_frames(data, path, JOURNAL_ID, first))
        for at, (seq, payload) in enumerate(frames):
            for name, other in names.items():
                assert len(name) == len(other)
                payload = payload.replace(name.encode(), other.encode())
            frames[at] = pack(seq, payload)
        path.write_bytes(data[: HEADER.size] + b"".join(frames))


def test_the_archive_holds_what_a_release_has_to_read(tmp_path):
    folder = unpack(tmp_path / "journal")
    segments = payloads(folder)
    assert len(segments) >= SEGMENTS_MIN
    kinds = [payload[:1] for _, found in segments for payload in found]
    # Each segment begins with its checkpoint; a lost worker's attempts are closed in a frame of the recorder's own.
    assert [found[0][:1] for _, found in segments] == [b"C"] * len(segments)
    assert kinds.count(b"R") == 1 and kinds.count(b"W") > old_journal.BULK
    assert ARCHIVE.stat().st_size < 64 * 1024
    newest = max(folder.glob("*.seg"))
    whole = HEADER.size + sum(16 + len(payload) for payload in segments[-1][1])
    assert len(newest.read_bytes()) > whole, "no tail is cut off"


class Host:
    """An account for each of the journal's, with buckets and grants of the journal."""

    def __init__(self, services):
        self.services = services
        self.one, self.two = Account(services), Account(services)
        services.ledger.register_journal(JOURNAL_ID, "old")
        flat = self.one.flat
        self.buckets = {
            "tokens": (self.one, self.one.bucket(1_000_000), 400_000),
            "cap": (self.one, self.one.bucket(1_000_000, kind="cap", rate=CAP_RATE), 100_000),
            "first": (self.two, self.two.bucket(50_000, priority=1), 20_000),
            "second": (self.two, self.two.bucket(50_000, priority=2), 40_000),
        }
        self.names = {old_journal.RATE: flat}
        self.names |= dict(
            zip(old_journal.ACCOUNTS, (self.one.account_id.hex, self.two.account_id.hex), strict=True)
        )
        for name, (account, bucket, amount) in zip(old_journal.BUCKETS, self.buckets.values(), strict=True):
            granted = services.ledger.grant(
                account_id=account.account_id.hex, bucket_id=bucket.hex, journal_id=JOURNAL_ID, grant_id=None, amount=amount,
                spend_for_s=900,
            )  # fmt: skip
            assert granted.added == amount
            self.names |= {name: bucket.hex, old_journal.GRANTS[name]: granted.grant_id}

    def settle(self, records, up_to):
        settle_store.settle(self.services.connection, JOURNAL_ID, up_to, records, self.one.rates)

    def used(self):
        found = {
            bucket.bucket_id: bucket.spent
            for account in (self.one, self.two)
            for bucket in self.services.ledger.buckets(account.account_id)
        }
        return {name: found[bucket] for name, (_, bucket, _) in self.buckets.items()}

    def lost(self):
        sums = {}
        for (loss,) in self.services.connection.execute("SELECT loss FROM usage WHERE loss IS NOT NULL"):
            for cause, _, counts in loss:
                sums[cause] = sums.get(cause, 0) + sum(counts)
        return sums

    def states(self):
        return dict(
            self.services.connection.execute("SELECT state, count(*) FROM usage GROUP BY state").fetchall()
        )


def recover(folder, workers_dir):
    """(records in the order in which they are settled, the journal's end): what is open of workers that are gone is closed."""

    async def run():
        recorder = old_journal.make_recorder(folder, workers_dir)
        records = recorder.recover(0)
        recorder.settler.put = records.extend
        recorder.begin()
        end = recorder.journal.next_seq - 1
        assert not recorder.attempts
        recorder.journal.close()
        return records, end

    return asyncio.run(run())


@pytest.mark.parametrize("made", ["by the release before", "by this one"])
def test_it_settles_as_the_release_that_wrote_it_settled_it(services, tmp_path, made):
    host, folder = Host(services), tmp_path / "journal"
    if made == "by this one":
        asyncio.run(old_journal.write(folder))
    else:
        unpack(folder)
    put(folder, host.names)
    (tmp_path / "nobody").mkdir()
    records, end = recover(folder, tmp_path / "nobody")
    host.settle(records, end)
    assert host.used() == USED
    assert host.lost() == LOST
    assert host.states() == {"complete": RECORDS - INTERRUPTED, "interrupted": INTERRUPTED}
    assert records_after(folder, JOURNAL_ID, 0) == RECORDS
    assert services.ledger.quarantined() == []
    assert findings(services) == []


def test_this_release_writes_the_same_bytes(tmp_path):
    """So an older release reads them, too: a journal of this layout goes back and forth between releases."""
    asyncio.run(old_journal.write(tmp_path / "new"))
    assert payloads(tmp_path / "new") == payloads(unpack(tmp_path / "old"))


def test_a_frame_of_another_kind_or_layout_is_no_journal_of_this_release(tmp_path):
    for name, payload in {"kind": b"X\x90", "op": b"R\x91\x92\x63\xa1a", "checkpoint": b"C\x91\x90"}.items():
        folder = unpack(tmp_path / name)
        newest = max(folder.glob("*.seg"))
        data, first = newest.read_bytes(), int(newest.stem)
        frames = list(read_frames(data, newest, JOURNAL_ID, first))
        whole = data[: HEADER.size] + b"".join(pack(seq, kept) for seq, kept in frames)
        newest.write_bytes(whole + pack(frames[-1].seq + 1, payload))
        with pytest.raises(JournalCorrupt, match=str(frames[-1].seq + 1)):
            recover(folder, tmp_path)
