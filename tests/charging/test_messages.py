"""Every message: its configuration, its bytes, and what is no message at all. To be run in the compiled build, too.

The bytes are those of the release before messages had types, so its workers and its journals go with this one.
"""

import inspect
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.charging.host.test_losses import make_recorder
from tests.sim.test_recorder import Transport
from tokenworks.catalog import Counts
from tokenworks.charging import WorkerConnection, messages, questions, wire, wiring_messages
from tokenworks.charging.messages import (
    Ack,
    AdmittedAnswer,
    Amount,
    Attempt,
    AttemptStart,
    BucketTerms,
    Checkpoint,
    Drop,
    Finish,
    FinishAtRisk,
    HeldAmount,
    Hello,
    JournalBatch,
    JournalOp,
    LegacyUsageRecord,
    Limit,
    LimitAnswer,
    LimitLeft,
    LimitRequest,
    LimitReturn,
    LimitSlot,
    LimitState,
    Loss,
    Need,
    OpenAttempt,
    Part,
    Progress,
    Publication,
    QueueAnswer,
    QueueEntry,
    QueueRequest,
    QueueReturn,
    Recall,
    Reply,
    Request,
    SliceAnswer,
    SliceGrant,
    SliceRequest,
    SliceReturn,
    SliceState,
    Start,
    UsageRecord,
    Verdict,
    Welcome,
    WrittenBatch,
)
from tokenworks.charging.payload import checkpoint_payload, read_payload
from tokenworks.charging.wire import WireError
from tokenworks.charging.wiring_messages import (
    BlockedKeys,
    ClockOffset,
    ContentKeys,
    ContentKeysAsked,
    ContentToLog,
    DatabaseAlive,
    DeploymentPause,
    EndedKey,
    JournalSpace,
    LiveKey,
    LossyAccounts,
    MissingPeppers,
    ObjectOwner,
    PausedDeployments,
    PublishedSnapshot,
    ReplayFound,
    ReplayLookup,
    ReplayName,
    ReplayToKeep,
    ScopedLimit,
    SoldRate,
    UpstreamObject,
)

A, B, G, W = "a" * 32, "b" * 32, "c" * 32, "f" * 32
WEIGHTS = (0, *[1000] * 8)
HELD, HELD_ROW = (
    HeldAmount(B, G, "r", "token", "balance", 5, WEIGHTS),
    [B, G, "r", "token", "balance", 5, WEIGHTS],
)
COUNTS = Counts(1, 2, 3, 4, 5, 6, 7, 8)
AMOUNT, AMOUNT_ROW = Amount(B, G, 7), [B, G, 7]
LIMIT = Limit("l" * 32, 5, 100, 2)
STARTED = (A, B, "request", 1, "key", "member", "chat", "m", "d", 1000, [HELD])
STARTED_ROW = [*STARTED[:-1], [HELD_ROW]]
TERMS = BucketTerms(B, A, "balance", "token", 10, None, ("*",), "r", ("w" * 32,))
TERMS_ROW = [B, A, "balance", "token", 10, None, ["*"], "r", ["w" * 32]]
RECORD = UsageRecord(
    A, B, B, 1, "key", "member", "chat", "m", "d", "complete", "completed", "provider", 1, 2, None, 1, COUNTS, None,
    [Part(B, G, "r", "token", "balance", 7, 1, None)], [Loss("late", 0, COUNTS)], [], None,
)  # fmt: skip
RECORD_JSON = (
    f'{{"account_id":"{A}","usage_id":"{B}","request_id":"{B}","attempt_no":1,"key_id":"key","member_id":"member","protocol":"chat",'
    '"model":"m","deployment":"d","state":"complete","reason":"completed","counted_by":"provider","started_ms":1,"ended_ms":2,'
    f'"first_byte_ms":null,"latency_ms":1,"c":[1,2,3,4,5,6,7,8],"provider_total":null,"parts":[["{B}","{G}","r","token","balance",7,'
    '1,null]],"loss":[["late",0,[1,2,3,4,5,6,7,8]]],"flags":[],"upstream_id":null}'
).encode()  # fmt: skip
LIVE_KEY = LiveKey(
    b"mac", "key", A, "member", ("m",), (B,), None, 5, "{}", True, (ScopedLimit("key", LIMIT),), None, "home", "{}", None, ("cause",),
    ("open", 9), None, (SoldRate("r", "token", ("*",)),),
)  # fmt: skip
LIVE_KEY_ROW = [
    b"mac", "key", A, "member", ["m"], [B], None, 5, "{}", True, [["key", LIMIT]], None, "home", "{}", None, ["cause"], ["open", 9], None, [["r", "token", ["*"]]], None, False, False,
]  # fmt: skip
RAW = msgspec.Raw(wire.encode(["x", 1]))

FROZEN, CHANGED = "frozen", "changed"
# (an example, how its elements stand on the wire, whether it is changed while it is used, its tag)
ARRAYS = [
    (Need(1, 200, 64), [1, 200, 64], FROZEN, None),
    (TERMS, TERMS_ROW, FROZEN, None),
    (AMOUNT, AMOUNT_ROW, FROZEN, None),
    (HELD, HELD_ROW, FROZEN, None),
    (Attempt(*STARTED[:-1]), STARTED_ROW[:-1], CHANGED, None),
    (AttemptStart(*STARTED), STARTED_ROW, CHANGED, None),
    (Start(*STARTED), [0, *STARTED_ROW], CHANGED, 0),
    (Progress(A, COUNTS, None, 5, [HELD]), [1, A, COUNTS, None, 5, [HELD_ROW]], FROZEN, 1),
    (Finish(A, B, [AMOUNT], b"{}"), [2, A, B, [AMOUNT_ROW], b"{}"], FROZEN, 2),
    (FinishAtRisk(A, B, [AMOUNT], b"{}", 9, 3), [2, A, B, [AMOUNT_ROW], b"{}", 9, 3], FROZEN, 2),
    (Drop(A), [3, A], FROZEN, 3),
    (OpenAttempt(W, AttemptStart(*STARTED), COUNTS, 4, 5), [W, STARTED_ROW, COUNTS, 4, 5], CHANGED, None),
    (Checkpoint([], {W: 3}), [[], {W: 3}], FROZEN, None),
    (JournalBatch(4, [Drop(A)]), [4, [[3, A]]], FROZEN, None),
    (WrittenBatch(4, [Finish(A, B, [], b"")]), [4, [[2, A, B, [], b""]]], FROZEN, None),
    (Hello(W, 12), [W, 12], FROZEN, None),
    (SliceState(A, B, G, 7), [A, B, G, 7], FROZEN, None),
    (SliceRequest(1, A, (B,), "m", Need(1, 2, 3), {B: 5}, False), [1, A, [B], "m", [1, 2, 3], {B: 5}, False], FROZEN, None),
    (SliceReturn(0, A, [AMOUNT]), [0, A, [AMOUNT_ROW]], FROZEN, None),
    (LimitRequest(1, 10, (LIMIT,)), [1, 10, [LIMIT]], FROZEN, None),
    (LimitReturn("l", 3, 0, -5, True), ["l", 3, 0, -5, True], FROZEN, None),
    (LimitSlot(3, 1, 10), [3, 1, 10], CHANGED, None),
    (LimitState(LIMIT, 2, [LimitSlot(3, 1, 10)]), [LIMIT, 2, [[3, 1, 10]]], FROZEN, None),
    (QueueRequest(1, 10, (LIMIT,), QueueEntry("m", A, 1, 1, 500)), [1, 10, [LIMIT], ["m", A, 1, 1, 500]], FROZEN, None),
    (QueueReturn("m", A, 10, 7), ["m", A, 10, 7], FROZEN, None),
    (Request(1, "keys", RAW), [1, "keys", ["x", 1]], FROZEN, None),
    (Welcome(3), [3], FROZEN, None),
    (Ack(3), [3], FROZEN, None),
    (SliceGrant(A, G, TERMS, 100, 5), [A, G, TERMS_ROW, 100, 5], FROZEN, None),
    (SliceAnswer(1, 16 + 30), [1, 46], FROZEN, None),
    (Recall(1, A, [B], True), [1, A, [B], True], FROZEN, None),
    (LimitAnswer(1, 0, 0, 0, 5), [1, 0, 0, 0, 5], FROZEN, None),
    (AdmittedAnswer(1, 0, 0, 0, 5, (LimitLeft(3, 0),)), [1, 0, 0, 0, 5, [[3, 0]]], FROZEN, None),
    (QueueAnswer(1, 0, 0, 0, 5, 10), [1, 0, 0, 0, 5, 10], FROZEN, None),
    (Reply(1, RAW), [1, ["x", 1]], FROZEN, None),
    (Publication("snapshot", RAW), ["snapshot", ["x", 1]], FROZEN, None),
    (ScopedLimit("key", LIMIT), ["key", LIMIT], FROZEN, None),
    (SoldRate("r", "token", ("*",)), ["r", "token", ["*"]], FROZEN, None),
    (LIVE_KEY, LIVE_KEY_ROW, FROZEN, None),
    (EndedKey(b"mac", "revoked"), [b"mac", "revoked"], FROZEN, None),
    (UpstreamObject(A, "resp-1"), [A, "resp-1"], FROZEN, None),
    (ObjectOwner("d", 7), ["d", 7], FROZEN, None),
    (ReplayName(A, "idempotency_key", b"n", "r"), [A, "idempotency_key", b"n", "r"], FROZEN, None),
    (
        ReplayLookup(ReplayName(A, "response_cache", b"n", "r"), b"", "m", "w", 60),
        [[A, "response_cache", b"n", "r"], b"", "m", "w", 60], FROZEN, None,
    ),
    (
        ReplayFound("found", "u", "r", "provider", Counts(output=1), 5, "application/json", b"{}"),
        ["found", "u", "r", "provider", [0, 0, 0, 0, 1, 0, 0, 0], 5, "application/json", b"{}", "", None, None], FROZEN, None,
    ),
    (
        ReplayToKeep(ReplayName(A, "response_cache", b"n", "r"), b"", "m", "w", "u", "application/json", None, 60),
        [[A, "response_cache", b"n", "r"], b"", "m", "w", "u", "application/json", None, 60], FROZEN, None,
    ),
    (
        ContentToLog(A, "q", "k", "m", "chat", "mo", "complete", 5, 6, b"q", b"a"),
        [A, "q", "k", "m", "chat", "mo", "complete", 5, 6, b"q", b"a"], FROZEN, None,
    ),
    (ContentKeysAsked(A, "m", [b"s"], True), [A, "m", [b"s"], True], FROZEN, None),
    (ContentKeys([b"k", b""], b"n", b"s"), [[b"k", b""], b"n", b"s"], FROZEN, None),
    (DeploymentPause("d", 1.5), ["d", 1.5], FROZEN, None),
]  # fmt: skip
MAPS = [
    (DatabaseAlive(["00"], [A]), {"keys": ["00"], "accounts": [A]}),
    (BlockedKeys(["k"]), {"keys": ["k"]}),
    (MissingPeppers([2]), {"lacking": [2]}),
    (ClockOffset(1, 2, None), {"offset_ns": 1, "error_ns": 2, "off_s": None}),
    (PausedDeployments({"d": 1.5}), {"until_s": {"d": 1.5}}),
    (JournalSpace(True), {"full": True}),
    (LossyAccounts([A]), {"accounts": [A]}),
    (
        PublishedSnapshot(1, ["{}"], {"a": "m"}, {"r": "{}"}, {"d": LIMIT}, ["{}"], [], {"m": "{}"}),
        {
            "number": 1,
            "deployments": ["{}"],
            "aliases": {"a": "m"},
            "cards": {"r": "{}"},
            "limits": {"d": LIMIT},
            "models": ["{}"],
            "intents": [],
            "facts": {"m": "{}"},
            "foreign_keys": False,
        },
    ),
]


def test_every_message_is_listed_here():
    made = {
        found for module in (messages, wiring_messages) for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, msgspec.Struct) and found.__module__ == module.__name__
    }  # fmt: skip
    listed = {type(row[0]) for row in [*ARRAYS, *MAPS]} | {UsageRecord, LegacyUsageRecord}
    assert made == listed


@pytest.mark.parametrize(("message", "row", "changes", "tag"), ARRAYS, ids=lambda value: type(value).__name__)
def test_a_message_is_an_array_with_these_elements(message, row, changes, tag):
    config = type(message).__struct_config__
    assert (config.array_like, config.gc, config.frozen, config.tag) == (True, False, changes == FROZEN, tag)
    assert not config.omit_defaults and config.forbid_unknown_fields == isinstance(message, EndedKey)
    data = wire.encode(message)
    assert data == wire.encode(row)
    if not isinstance(message, WrittenBatch):  # it is read as a `JournalBatch`
        assert wire.encode(msgspec.msgpack.decode(data, type=type(message))) == data


@pytest.mark.parametrize(("message", "content"), MAPS, ids=lambda value: type(value).__name__)
def test_news_are_maps_to_which_a_release_may_add(message, content):
    config = type(message).__struct_config__
    assert (config.array_like, config.gc, config.frozen, config.forbid_unknown_fields) == (
        False,
        False,
        True,
        False,
    )
    assert wire.encode(message) == wire.encode(content)
    more = wire.encode(content | {"of the next release": [1]})
    assert msgspec.msgpack.decode(more, type=type(message)) == message


def test_a_record_is_json_without_what_is_usual():
    config = UsageRecord.__struct_config__
    assert (config.array_like, config.omit_defaults, config.frozen) == (False, True, False)
    assert msgspec.json.encode(RECORD) == RECORD_JSON
    assert msgspec.json.decode(RECORD_JSON, type=UsageRecord) == RECORD
    for field, value in (("state", b"half"), ("counted_by", b"somebody")):
        text = RECORD_JSON.replace(f'"{field}":"'.encode(), f'"{field}":"'.encode() + value)
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=UsageRecord)


def test_an_operation_is_known_by_its_tag():
    for op in (Start(*STARTED), Progress(A, COUNTS, None, 5, []), FinishAtRisk(A, B, [], b"", 1, 2), Drop(A)):
        assert msgspec.msgpack.decode(wire.encode(op), type=JournalOp) == op
    # One without a risk is shorter, and is read as one with none.
    assert msgspec.msgpack.decode(wire.encode(Finish(A, B, [], b"")), type=JournalOp) == FinishAtRisk(
        A, B, [], b"", 0, 0
    )
    tags = [kind.__struct_config__.tag for kind in get_args(JournalOp)]
    assert tags == [wire.START, wire.PROGRESS, wire.FINISH, wire.DROP]


def test_a_start_stands_in_a_checkpoint_without_its_tag():
    attempt = OpenAttempt(W, Start(*STARTED), COUNTS, None, 5)
    payload = checkpoint_payload([attempt], {W: 3})
    assert payload == b"C" + wire.encode([[[W, STARTED_ROW, COUNTS, None, 5]], {W: 3}])
    found = read_payload(1, payload)
    assert found.attempts[0].start == AttemptStart(*STARTED) and found.last_message == {W: 3}


def test_a_verdict_and_its_seconds_are_one_number_for_workers_of_the_release_before():
    codes = {
        Verdict.ENOUGH: 0,
        Verdict.NOTHING_LEFT: 1,
        Verdict.ELSEWHERE: 2,
        Verdict.AWAY: 3,
        Verdict.PAYS_AS_IT_GOES: 4,
    }
    for verdict, code in codes.items():
        assert wire.verdict_code(verdict) == wire.verdict_code(verdict, 5) == code
        assert wire.verdict_of(code) == (verdict, 0)
    assert {*codes, Verdict.WINDOW_USED_UP} == set(Verdict)
    for seconds in (0, 1, 30, 10**6):
        assert wire.verdict_code(Verdict.WINDOW_USED_UP, seconds) == 16 + seconds
        assert wire.verdict_of(16 + seconds) == (Verdict.WINDOW_USED_UP, seconds)
    for code in (-1, 5, 15):
        with pytest.raises(WireError):
            wire.verdict_of(code)


# What is no message.

GOOD = {
    wire.HELLO: [W, 12],
    wire.STATE: [[A, B, G, 7]],
    wire.JOURNAL: [
        1,
        [[0, *STARTED_ROW], [1, A, COUNTS, None, 5, [HELD_ROW]], [2, A, B, [AMOUNT_ROW], b"{}"], [3, A]],
    ],
    wire.SLICE_REQUEST: [[1, A, [B], "m", [1, 2, 3], {B: 5}, False]],
    wire.SLICE_RETURN: [[0, A, [AMOUNT_ROW]]],
    wire.REQUEST: [[1, "keys", [b"mac"]]],
    wire.LIMIT_REQUEST: [[1, 10, [LIMIT]]],
    wire.LIMIT_RETURN: [["l", 3, 0, -5, True]],
    wire.LIMIT_STATE: [[LIMIT, 2, [[3, 1, 10]]]],
    wire.QUEUE_REQUEST: [[1, 10, [LIMIT], ["m", A, 1, 1, 500]]],
    wire.QUEUE_RETURN: [["m", A, 10, 7]],
    wire.QUEUE_LEAVE: [1, 2],
    wire.WELCOME: [3],
    wire.ACK: [3],
    wire.SLICE_GRANT: [[A, G, TERMS_ROW, 100, 5]],
    wire.SLICE_ANSWER: [[1, 46]],
    wire.RECALL: [1, A, [B], True],
    wire.REPLY: [1, None],
    wire.PUBLISH: ["alive", {"keys": [], "accounts": []}],
    wire.FENCE: [],
    wire.LIMIT_ANSWER: [[1, 0, 0, 0, 5, [[3, 0]]]],
    wire.QUEUE_ANSWER: [[1, 0, 0, 0, 5, 10]],
}
FROM_WORKERS = [kind for kind in GOOD if kind < wire.WELCOME]
REFUSED = {
    wire.HELLO: [[], ["not hex".ljust(32), 1], ["F" * 32, 1], [W, "1"], [W], {"worker_id": W, "pid": 1}, None],
    wire.STATE: [[[A, B, G]], [[A, B, G, 1.5]], [[A, B, None, 7]], [7]],
    wire.JOURNAL: [
        [], [1], ["1", []], [1, [[4, A]]], [1, [[-1, A]]], [1, [["3", A]]], [1, [[3]]], [1, [[]]], [1, [[3, 5]]], [1, [[2, A, B, [], "text"]]],
        [1, [[2, A, B, [[B, G]], b""]]], [1, [[1, A, [1] * 9, None, 5, []]]], [1, [[0, *STARTED_ROW[:-1]]]],
        [1, [[0, *STARTED_ROW[:-1], [[B, G, "r", "token", "loan", 5, WEIGHTS]]]]], [1, [[1, A, COUNTS, "5", 5, []]]],
    ],
    wire.SLICE_REQUEST: [[[1, A, [B], "m", [1, 2], {}, False]], [[1, A, [B], "m", [1, 2, 3], {B: "5"}, False]], [[1, A, B, "m", [1, 2, 3], {}, 0]]],
    wire.SLICE_RETURN: [[[0, A, [[B, G]]]], [[None, A, []]]],
    wire.REQUEST: [[[1, "keys"]], [[1, 5, []]]],
    wire.LIMIT_REQUEST: [[[1, 10, [["l", 1, 2]]]], [[1, 10, [["l", 1, 2, 3, 4]]]], [[1, None, []]]],
    wire.LIMIT_RETURN: [[["l", 3, 0, -5, 1]], [["l", 3, 0]]],
    wire.LIMIT_STATE: [[[LIMIT, 2, [[3, 1]]]], [[LIMIT, None, []]]],
    wire.QUEUE_REQUEST: [[[1, 10, [LIMIT], ["m", A, 1, 1]]], [[1, 10, [LIMIT]]]],
    wire.QUEUE_RETURN: [[["m", A, 10]], [["m", A, 10, "7"]]],
    wire.QUEUE_LEAVE: [["1"], 1, [[1]]],
}  # fmt: skip


def test_there_is_a_good_body_of_every_kind():
    assert GOOD.keys() == wire.BODIES.keys() and REFUSED.keys() == set(FROM_WORKERS)
    for kind, content in GOOD.items():
        body = wire.encode(content)
        assert (
            wire.encode(wire.BODIES[kind](body)) in {body, wire.encode([1, GOOD[wire.JOURNAL][1]])}
            or kind == wire.JOURNAL
        )


@pytest.mark.parametrize("kind", FROM_WORKERS)
def test_a_body_that_is_none_is_a_wire_error(kind):
    cut = wire.encode(GOOD[kind])[:-1]
    beyond = wire.encode(GOOD[kind]) + b"\x00"
    for body in [b"", b"\xc1", b"\x91" * 10_000, cut, beyond, *map(wire.encode, REFUSED[kind])]:
        with pytest.raises(WireError, match=wire.BODIES[kind].name):
            wire.BODIES[kind](body)


def decoded_or_refused(kind, body):
    """Whether it decodes; every other end than a `WireError` fails the test."""
    try:
        wire.BODIES[kind](body)
    except WireError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_wire_error(kind, body):
    decoded_or_refused(kind, body)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 3))
@example(wire.JOURNAL, 0, 0xC1, 0)
def test_a_body_with_a_byte_that_is_wrong_is_a_body_or_a_wire_error(kind, at, byte, drop):
    body = bytearray(wire.encode(GOOD[kind]))
    at %= len(body)
    body[at : at + 1 + drop] = bytes([byte])
    decoded_or_refused(kind, bytes(body))


def test_a_worker_that_speaks_otherwise_is_cut_off_and_nothing_of_it_is_written(tmp_path):
    """And the recorder goes on: its own invariants are not broken by it."""
    fatal = []
    for kind in [*FROM_WORKERS, 0, 99]:
        for number, content in enumerate(REFUSED.get(kind, [[]])):
            (tmp_path / f"{kind}-{number}").mkdir()
            recorder = make_recorder(tmp_path / f"{kind}-{number}")
            recorder._on_fatal = fatal.append
            recorder.limits.adopt_state = recorder.queues.cancel = None  # they are not called
            recorder.recover(0)
            recorder.begin()
            seq = recorder.journal.next_seq
            connection = WorkerConnection(recorder)
            transport = Transport(lambda _: None)
            connection.connection_made(transport)
            if kind != wire.HELLO:
                connection.worker_id, connection.ready = W, True
                recorder.workers[W], recorder.last_message[W] = connection, 0
            connection.data_received(wire.frame(kind, wire.encode(content)))
            assert transport.closed, (kind, content)
            assert recorder.journal.next_seq == seq and not recorder.attempts
            recorder.journal.close()
    assert fatal == []


def test_questions_are_answered_in_their_own_types():
    rows = [LIVE_KEY, EndedKey(b"mac", "expired")]
    assert questions.KEYS.decode_answer(questions.KEYS.answer(rows)) == rows
    assert questions.KEYS.decode_answer(wire.encode([LIVE_KEY_ROW, [b"mac", "expired"]])) == rows
    assert questions.OBJECT_OWNER.decode_answer(wire.encode(["", 0])) == ObjectOwner("", 0)
    for answer in ([[b"mac", "lost"]], [[b"mac"]], [LIVE_KEY_ROW[:-5]], [5], {}):
        with pytest.raises(WireError):
            questions.KEYS.decode_answer(wire.encode(answer))
    with pytest.raises(WireError):
        questions.OBJECT_OWNER.decode_argument(wire.encode([A]))
    with pytest.raises(WireError):
        questions.DATABASE_ALIVE.decode(wire.encode({"keys": []}))


def test_a_recorder_of_the_release_before_says_less_and_a_worker_of_it_reads_no_more():
    (answer,) = wire.decode_limit_answers(wire.encode([[1, 0, 0, 0, 5]]))
    assert answer == AdmittedAnswer(1, 0, 0, 0, 5) and answer.left == ()
    before = msgspec.msgpack.Decoder(list[LimitAnswer])
    now = wire.encode([AdmittedAnswer(1, 0, 0, 0, 5, (LimitLeft(3, 0),))])
    assert before.decode(now) == [LimitAnswer(1, 0, 0, 0, 5)]
    assert questions.KEYS.decode_answer(wire.encode([LIVE_KEY_ROW[:-1]])) == [LIVE_KEY]
