"""Sums by model and deployment: bounded in number, the same for all workers, and never less."""

from tokenworks.catalog import Counts
from tokenworks.charging import UsageRecord
from tokenworks.gateway.series import COMPLETE, INTERRUPTED, OTHER, SERIES_MAX, Series, read_series
from tokenworks.gateway.stats import Stats


def record(state="complete", first_byte_ms=7):
    return UsageRecord(
        "a" * 32, "b" * 32, "c" * 32, 1, "d" * 32, "e" * 32, "chat", "m", "d", state, "completed", "provider", 1, 2, first_byte_ms, 40,
        Counts(fresh_input=3, output=2), 5, [], [], [], None,
    )  # fmt: skip


def test_records_of_a_second_go_into_the_sums():
    series = Series()
    row = series.of("m", "d")
    for one, outcome in (
        (record(), COMPLETE),
        (record("interrupted", None), INTERRUPTED),
        (record(), COMPLETE),
    ):
        row.recorded(one, outcome)
    series.failed("m", "d")
    series.settle()
    series.settle()
    assert (row.outcomes, row.attempts, row.failed) == ([2, 1, 0, 0], 4, 1)
    assert (sum(row.tokens), row.tokens[0]) == (15, 9)
    assert (row.first_byte.count, row.whole.count, row.whole.total) == (2, 3, 120)


def test_every_class_is_summed():
    row = Series().of("m", "d")
    rare = record()
    rare.c = Counts(*range(1, 9))
    row.recorded(rare, COMPLETE)
    row.recorded(record(), COMPLETE)
    row.recorded(rare, COMPLETE)
    assert row.tokens == [a + b + a for a, b in zip(rare.c, record().c, strict=True)]


def test_the_number_of_series_is_bounded_and_all_workers_agree(tmp_path):
    pairs = [("m", f"d{number:04}") for number in range(SERIES_MAX + 50)]
    one, other = Series(), Series()
    one.known(pairs)
    other.known(reversed(pairs))
    assert one.pairs.keys() == other.pairs.keys()
    assert len(one.pairs) == SERIES_MAX + 1
    one.failed("m", pairs[-1][1])
    assert one.of("never", "seen") is one.of(OTHER, OTHER)
    assert one.of(OTHER, OTHER).failed == 1


def test_who_follows_goes_on_from_the_file(tmp_path):
    path = tmp_path / "worker-0.series"
    first = Series()
    first.of("m", "d").recorded(record(), COMPLETE)
    first.added_us["chat"].append(900)
    first.keep(path)
    second = Series()
    second.add(path.read_bytes())
    second.of("m", "d").recorded(record(), COMPLETE)
    second.keep(path)
    summed = read_series([path, tmp_path / "worker-1.series"])
    assert summed.of("m", "d").outcomes[0] == 2
    assert summed.added["chat"].count == 1


def test_a_file_that_is_none_is_nothing(tmp_path):
    path = tmp_path / "worker-0.series"
    for content in (b"", b"\x00", b"rubbish", b"\x93\x02\x90\x80", b"\x93\x01\x91\x93\xa1m\xa1d\x90\x80"):
        path.write_bytes(content)
        assert read_series([path]).pairs == {} or read_series([path]).of("m", "d").attempts == 0


def test_a_workers_own_counters_begin_at_nothing(tmp_path):
    first = Series()
    first.of("m", "d").recorded(record(), COMPLETE)
    after, stats = Series(), Stats(tmp_path / "worker-0.stats", 1)
    after.add(first.wire())
    after.settle(stats)
    assert (stats.c["tokens_input"], stats.latency_ms) == (0, [])
    after.of("m", "d").recorded(record(), COMPLETE)
    after.settle(stats)
    after.settle(stats)
    assert (stats.c["tokens_input"], stats.c["tokens_output"]) == (3, 2)
    assert (stats.latency_ms, stats.first_byte_ms) == ([40], [7])
