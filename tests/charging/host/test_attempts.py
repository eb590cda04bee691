"""What a lost worker's attempt costs, from a journal of this release and of one before the hour's cache write."""

import asyncio
import json

import msgspec
import pytest

from tests.charging.host.test_losses import make_recorder
from tests.charging.ledger.test_unpaid_store import IDS
from tests.support.builds import on_sources
from tokenworks.charging import wire
from tokenworks.charging.host.attempts import interrupted
from tokenworks.charging.messages import Amount, AttemptStart, HeldAmount, Loss, OpenAttempt
from tokenworks.charging.model import decode_record, encode_record

OLD, NEW = [0, *[1000] * 7], [0, *[1000] * 8]


def held(amount, weights, kind="balance"):
    return ["b" * 32, "c" * 32, "r", "token", kind, amount, weights]


@pytest.mark.parametrize("weights", [OLD, NEW])
def test_what_the_hold_does_not_cover_is_lost_with_its_cause(weights):
    start = AttemptStart(
        "1" * 32,
        "a" * 32,
        "req",
        1,
        *IDS,
        "chat",
        "m",
        "d",
        1000,
        [HeldAmount(*held(4000, weights)), HeldAmount(*held(9000, weights, "cap"))],
    )
    row = json.loads(msgspec.json.encode(OpenAttempt("w", start, None, None, 1000)))
    row[2] = [0, 0, 0, 0, 6, 0, 0]
    finish = interrupted(msgspec.json.decode(json.dumps(row), type=OpenAttempt), "worker_lost")
    record = decode_record(finish.record)
    amounts = [part.amount for part in finish.used]
    assert (finish.usage_id, finish.account_id, amounts) == ("1" * 32, "a" * 32, [4000, 6000])
    assert record.loss == [Loss("worker_lost", 0, record.c._replace(output=2))]
    assert decode_record(encode_record(record)) == record


@on_sources
def test_a_journal_of_seven_classes_is_recovered(tmp_path):
    """Its checkpoint, starts, progress and records are read by this release; its open attempts are charged."""
    start = ["2" * 32, "a" * 32, "req", 1, *IDS, "chat", "m", "d", 1000, [held(9000, OLD)]]
    progress = [wire.PROGRESS, "2" * 32, [1, 0, 0, 0, 3, 0, 0], 5, 2000, [held(9000, OLD)]]
    record = b'{"loss":[1,[0,0,0,0,1,0,0]]}'

    async def run():
        recorder = make_recorder(tmp_path)
        recorder.recover(0)
        recorder.journal.begin_segment(
            b"C" + wire.encode([[["f" * 32, start, [0, 0, 0, 0, 1, 0, 0], 5, 1500]], {}])
        )
        ops = [progress, [wire.FINISH, "3" * 32, "a" * 32, [], record]]
        recorder.journal.append(b"W" + bytes.fromhex("f" * 32) + wire.encode([1, ops]))
        recorder.journal.commit()
        recorder.journal.close()
        again = make_recorder(tmp_path)
        settled = []
        again.settler.put = settled.extend
        assert [row[3] for row in again.recover(0)] == [record]
        again.begin()
        ((_, account_id, used, text),) = settled
        lost = decode_record(text)
        assert (account_id, used) == ("a" * 32, [Amount("b" * 32, "c" * 32, 4000)])
        assert (lost.reason, lost.c.fresh_input, lost.c.output, lost.c.cache_write_1h) == (
            "worker_lost",
            1,
            3,
            0,
        )
        again.journal.close()

    asyncio.run(run())
