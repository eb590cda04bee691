"""The log of requests: bounded in size and rate, read by an id, and silent of content."""

import json

import pytest

from tokenworks.gateway.request_log import (
    FAILURES_BURST,
    LINES_PER_S_MAX,
    SUMMARY_S,
    RequestLine,
    RequestLog,
    file_of,
    find_lines,
)


@pytest.fixture
def log(tmp_path):
    made = RequestLog(1_000_000, file_of(tmp_path, 0, 20_000), lambda: 1_790_000_000_123)
    yield made
    made.close(0.0)


def line(log, number, **more):
    return RequestLine(log.time(), "request", f"{number:032x}", **more)


def test_two_files_are_all_that_is_kept_and_the_oldest_lines_go(log, tmp_path):
    for number in range(1000):
        log.write(line(log, number))
        log.flush(float(number))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert len(list(tmp_path.iterdir())) == 2
    assert find_lines(tmp_path, f"{999:032x}")[0]["time"] == "2026-09-21T14:13:20.123Z"
    assert find_lines(tmp_path, f"{0:032x}") == []
    # What is kept has no gap.
    kept = [number for number in range(1000) if find_lines(tmp_path, f"{number:032x}")]
    assert kept == list(range(kept[0], 1000))


def test_a_second_of_more_than_a_file_is_written_in_pieces(log, tmp_path):
    for number in range(200):
        log.write(line(log, number))
    log.flush(0.0)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert find_lines(tmp_path, f"{199:032x}")
    assert log.left_out == 0


def test_a_worker_that_follows_goes_on_in_its_file(log, tmp_path):
    log.write(line(log, 1))
    log.close(0.0)
    after = RequestLog(1_000_000, file_of(tmp_path, 0, 20_000), lambda: 0)
    after.write(line(after, 2))
    after.close(1.0)
    assert [len(find_lines(tmp_path, f"{n:032x}")) for n in (1, 2)] == [1, 1]


def test_a_share_is_written(tmp_path):
    log = RequestLog(250_000, None, lambda: 0)
    assert [log.wants() for _ in range(8)] == [False, False, False, True] * 2
    assert not any(RequestLog(0, None, lambda: 0).wants() for _ in range(1000))


def test_failures_have_a_rate_and_a_sum(log, tmp_path):
    wanted = [log.wants_failure("upstream_error", "d", 0.0) for _ in range(200)]
    assert sum(wanted) == FAILURES_BURST
    assert log.wants_failure("upstream_error", "another", 0.0)
    log.flush(SUMMARY_S + 1)
    (path,) = tmp_path.iterdir()
    (said,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (said["event"], said["cause"], said["deployment"], said["suppressed"]) == ("requests_suppressed", "upstream_error", "d", 200 - FAILURES_BURST)  # fmt: skip


def test_a_second_has_so_many_lines_and_no_more(log):
    assert sum(log.wants() for _ in range(LINES_PER_S_MAX + 10)) == LINES_PER_S_MAX
    assert log.left_out == 10
    log.flush(1.0)
    assert log.wants()


def test_a_full_disk_costs_lines_and_nothing_else(log, tmp_path):
    log.write(line(log, 1))
    log.flush(0.0, room=False)
    assert log.left_out == 1
    assert list(tmp_path.iterdir()) == []
    blocked = RequestLog(1_000_000, file_of(tmp_path / "none" / "\0", 0, 20_000), lambda: 0)
    with pytest.raises(
        ValueError, match="null byte"
    ):  # a path that is none is a defect of ours, and no full disk
        blocked.write(line(blocked, 1))
        blocked.flush(0.0)


def test_lines_are_found_by_each_id_and_by_nothing_else(log, tmp_path):
    log.write(
        line(
            log,
            1,
            client_request_id="own",
            usage_id="2" * 32,
            upstream_id='up"1',
            account_id="3" * 32,
            key_id="4" * 32,
            cause="own-cause",
        )
    )
    log.flush(0.0)
    for id_ in (f"{1:032x}", "own", "2" * 32, 'up"1'):
        assert len(find_lines(tmp_path, id_)) == 1, id_
    for id_ in ("3" * 32, "4" * 32, "own-cause", "request", "ow", ""):
        assert find_lines(tmp_path, id_) == [], id_


def test_no_file_is_no_line(tmp_path):
    (tmp_path / "requests-0.jsonl").touch()
    assert find_lines(tmp_path, "x") == []
    assert find_lines(tmp_path / "none", "x") == []
