"""The worker's end of the recorder's socket, without a socket: what it says, and what it makes of what it hears."""

import asyncio
from types import SimpleNamespace

import pytest

from tokenworks.catalog import Counts, Weights
from tokenworks.charging import KEYS, Need, RecorderClient, Slices, Verdict, wire
from tokenworks.charging.messages import Drop, JournalBatch, Loss
from tokenworks.charging.model import usage_record
from tokenworks.charging.wire import WireError
from tokenworks.charging.wiring_messages import EndedKey

A, W = "a" * 32, "f" * 32


class Talking:
    """A client that is welcome, and what it has written since."""

    def __init__(self):
        self.frames = []
        slices = Slices(lambda version, model: ("standard", Weights(0, *[1000] * 8)))
        self.client = RecorderClient(
            "/nowhere", W, slices, SimpleNamespace(boot_ns=lambda: 0), answer_wait_s=9, on_publish=lambda *_: None, on_die=lambda: None
        )  # fmt: skip
        reader = wire.FrameReader()
        self.client.connection_made(
            SimpleNamespace(
                write=lambda data: self.frames.extend(reader.feed(bytes(data))), close=lambda: None
            )
        )
        self.hear(wire.WELCOME, [0])
        self.frames.clear()

    def hear(self, kind, content):
        self.client.data_received(wire.frame(kind, wire.encode(content)))

    async def said(self):
        """(kind, content) of what was written in this turn."""
        await asyncio.sleep(0)
        found, self.frames[:] = [(kind, wire.decode(body)) for kind, body in self.frames], []
        return found


def record(loss=()):
    attempt = SimpleNamespace(
        account_id=A, usage_id="1" * 32, request_id="1" * 32, attempt_no=1, key_id="k", member_id="m", protocol="chat", model="m",
        deployment="d", started_ms=1000,
    )  # fmt: skip
    return usage_record(
        attempt, state="complete", reason="completed", counted_by="provider", ended_ms=2000, first_byte_ms=5, latency_ms=1000,
        counts=Counts(output=3), provider_total=3, parts=[], loss=list(loss), flags=[], upstream_id=None,
    )  # fmt: skip


def test_a_number_is_used_once_and_its_waiters_are_told_when_it_is_on_disk():
    async def run():
        talking, told = Talking(), []
        for name, risk in (("first", 0), ("second", 3)):
            talking.client.finish(record([Loss("late", 0, Counts(output=risk))]), told.append, name, risk)
            ((kind, (number, (op,))),) = await talking.said()
            # One with tokens at risk says when and how many.
            assert (kind, number, op[0]) == (wire.JOURNAL, 1 if name == "first" else 2, wire.FINISH)
            assert op[5:] == ([2000, 3] if risk else [])
        assert told == []
        talking.hear(wire.ACK, [1])
        assert told == ["first"]
        # The next recorder has heard of the first: the second is sent again, as it was.
        talking.hear(wire.WELCOME, [1])
        assert [kind for kind, _ in await talking.said()] == [wire.STATE, wire.LIMIT_STATE, wire.JOURNAL]
        talking.client.drop("2" * 32)
        talking.hear(wire.ACK, [2])
        assert told == ["first", "second"]
        talking.client._flush()
        ((_, content),) = await talking.said()
        assert content == wire.decode(wire.encode(JournalBatch(3, [Drop("2" * 32)])))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "verdict", "back_s"), [(1, Verdict.NOTHING_LEFT, 0), (16 + 30, Verdict.WINDOW_USED_UP, 30)]
)
def test_a_verdict_comes_with_its_seconds(code, verdict, back_s):
    async def run():
        talking, told = Talking(), []
        account = talking.client._slices.account(A)
        talking.client.request_slices(account, (), "m", Need(1, 2, 3), lambda *answer: told.append(answer))
        assert await talking.said() == [(wire.SLICE_REQUEST, [[1, A, [], "m", [1, 2, 3], {}, False]])]
        talking.hear(wire.SLICE_ANSWER, [[1, code]])
        assert told == [(None, verdict, back_s)]

    asyncio.run(run())


def test_an_answer_that_can_not_be_read_is_none_to_those_who_wait_for_it():
    async def run():
        talking, told = Talking(), []
        for _ in range(3):
            talking.client.request(KEYS, [b"mac"], told.append)
        assert await talking.said() == [(wire.REQUEST, [[number, "keys", [b"mac"]] for number in (1, 2, 3)])]
        talking.hear(wire.REPLY, [1, [["of another shape"]]])
        talking.hear(wire.REPLY, [2, None])
        talking.hear(wire.REPLY, [3, [[b"mac", "revoked"]]])
        assert told == [None, None, [EndedKey(b"mac", "revoked")]]

    asyncio.run(run())


def test_a_frame_that_is_none_ends_the_connection_and_what_was_not_answered_is_asked_again():
    async def run():
        talking, told = Talking(), []
        talking.client.request(KEYS, [b"mac"], told.append)
        await talking.said()
        with pytest.raises(WireError):
            talking.hear(wire.SLICE_GRANT, [[A, "grant"]])
        talking.client._closed = True  # no loop connects it anew
        talking.client.connection_lost(None)
        assert not talking.client.ready and told == []
        again = talking.client
        again.connection_made(
            talking_transport := SimpleNamespace(write=lambda data: None, close=lambda: None)
        )
        assert again._transport is talking_transport
        again.data_received(wire.frame(wire.WELCOME, wire.encode([0])))
        assert again._unsent_questions == [1]

    asyncio.run(run())
