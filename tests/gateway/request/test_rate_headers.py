"""The headers of limits: the nearest limit, in OpenAI's form and in Anthropic's, on answers and refusals."""

from tests.gateway.request.support import Worker, whole
from tokenworks.charging import Admission, Limit, LimitLeft
from tokenworks.gateway.request.rate_headers import admitted_lines, refused_lines

MINE = Limit("l-1", 60, 0, 0)
ALL = Limit("l-2", 100, 5000, 4)
NOW_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z


def admitted(*left):
    return Admission((MINE, ALL), 10, 1, left=tuple(LimitLeft(*one) for one in left))


def test_the_nearest_limit_of_each_kind_is_named():
    lines = admitted_lines(admitted((59, 0), (12, 4990)), "chat", NOW_MS)
    assert lines == (
        b"x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-requests: 12\r\nx-ratelimit-reset-requests: 1m0s\r\n"
        b"x-ratelimit-limit-tokens: 5000\r\nx-ratelimit-remaining-tokens: 4990\r\nx-ratelimit-reset-tokens: 1m0s\r\n"
    )


def test_anthropics_clients_get_its_names_and_an_instant():
    lines = admitted_lines(admitted((3, 0), (90, 1)), "messages", NOW_MS).decode()
    assert "anthropic-ratelimit-requests-limit: 60\r\nanthropic-ratelimit-requests-remaining: 3\r\n" in lines
    assert (
        "anthropic-ratelimit-tokens-remaining: 1\r\nanthropic-ratelimit-tokens-reset: 2026-09-21T14:14:20Z\r\n"
        in lines
    )
    assert "x-ratelimit" not in lines


def test_a_recorder_that_does_not_say_gives_no_headers():
    assert admitted_lines(admitted(), "chat", NOW_MS) == b""
    assert (
        admitted_lines(Admission((Limit("l", 0, 0, 2),), 1, 1, left=(LimitLeft(0, 0),)), "chat", NOW_MS)
        == b""
    )


def test_a_refusal_has_what_is_short_and_when_there_is_room():
    assert refused_lines(ALL, 2, 61_001, "chat", NOW_MS) == (
        b"x-ratelimit-limit-tokens: 5000\r\nx-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 1m2s\r\n"
    )
    assert b"requests-reset: 2026-09-21T14:13:21Z" in refused_lines(ALL, 1, 1, "messages", NOW_MS)
    assert refused_lines(ALL, 0, 1000, "chat", NOW_MS) == b""  # requests at once have no header
    assert refused_lines(ALL, -1, 1000, "chat", NOW_MS) == b""


def test_an_answer_and_a_refusal_of_a_request_have_them():
    worker = Worker()
    worker.user.limits, worker.user.limit_scopes = (MINE,), ("key",)
    worker.begins()
    asked = worker.recorder.admissions.asked[-1]
    asked.answered(Admission((MINE,), asked.tokens, 1, left=(LimitLeft(59, 0),)), 0, MINE, 0)
    worker.upstream().answers(whole())
    worker.upstream().ends()
    worker.recorder.durable()
    assert b"\r\nx-ratelimit-remaining-requests: 59\r\n" in worker.client.written
    worker.begins()
    worker.recorder.admissions.asked[-1].answered(None, 2000, MINE, 1)
    refusal = worker.client.refused
    assert refusal.code == "rate_limited" and b"x-ratelimit-reset-requests: 2s\r\n" in refusal.lines
