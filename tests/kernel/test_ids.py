from uuid import UUID

from tokenworks.gateway.ids import IdSource
from tokenworks.kernel import uuid7, uuid7_floor, uuid7_ms


def test_ids_ascend_and_are_version_seven():
    ids = [uuid7() for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}


def test_the_hot_path_makes_the_same_kind():
    source = IdSource()
    ids = [UUID(source.next()) for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert {i.version for i in ids} == {7}
    assert {i.variant for i in ids} == {"specified in RFC 4122"}


def test_two_sources_never_meet():
    ids = {source.next() for source in [IdSource() for _ in range(50)] for _ in range(200)}
    assert len(ids) == 50 * 200


def test_the_floor_of_a_millisecond_is_below_all_its_ids():
    made = uuid7(1_700_000_000_123)
    assert uuid7_ms(made) == 1_700_000_000_123
    assert uuid7_floor(1_700_000_000_123) <= made < uuid7_floor(1_700_000_000_124)
