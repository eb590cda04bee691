import json

import pytest

from tokenworks.app.database.connections import database_identity
from tokenworks.app.process.starting import check_durability, check_exposure
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, Unavailable


def settings(**given):
    return load_settings(given, {}).settings


class Database:
    """Of one node, that says this of its durability."""

    def __init__(self, *said):
        self.said = said

    def execute(self, statement, _=None):
        self.row = (json.dumps(self.said),) if "fsync" in statement else (False,)
        return self

    def fetchone(self):
        return self.row


@pytest.mark.parametrize(
    ("given", "said", "reason"),
    [
        ({"environment": "dev"}, ("off", "off", ""), None),
        ({"environment": "prod"}, ("off", "on", "s1"), "synchronous_commit=off"),
        ({"environment": "prod"}, ("on", "off", "s1"), "fsync=off"),
        ({"environment": "prod"}, ("on", "on", ""), "no synchronous standby"),
        ({"environment": "prod"}, ("on", "on", "FIRST 1 (s1)"), None),
        ({"environment": "prod", "allow_no_standby": True}, ("on", "on", ""), None),
    ],
)
def test_a_database_that_may_lose_commits_is_refused_outside_dev(given, said, reason):
    if reason is None:
        check_durability(settings(**given), Database(*said))
    else:
        with pytest.raises(Invalid, match=reason):
            check_durability(settings(**given), Database(*said))


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"listen": "127.0.0.1:1"}, False),
        ({"listen": "localhost:1"}, False),
        ({"listen": "0.0.0.0:1"}, True),
        ({"listen": "0.0.0.0:1", "allow_plain_http": True}, False),
        ({"listen": "0.0.0.0:1", "trusted_proxies": "10.0.0.0/8"}, False),
    ],
)
def test_plain_http_stays_on_loopback_unless_told(given, refused):
    if refused:
        with pytest.raises(Invalid, match="plain HTTP"):
            check_exposure(settings(**given))
    else:
        check_exposure(settings(**given))


# As Citus defines it, with answers that a test gives: the statement is one that a node can run.
NODES = """
SET allow_system_table_mods = on;
CREATE TABLE node (nodeid int, answers bool, instead text);
CREATE FUNCTION pg_catalog.run_command_on_all_nodes(command text, parallel bool DEFAULT true,
    give_warning_for_connection_errors bool DEFAULT false, OUT nodeid int, OUT success bool, OUT result text) RETURNS SETOF record
LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT * FROM public.node LOOP
        nodeid := one.nodeid; success := one.answers;
        EXECUTE command INTO result;
        result := coalesce(one.instead, result);
        RETURN NEXT;
    END LOOP;
END $$;
INSERT INTO node VALUES (1, true, NULL), (2, true, NULL);
"""


def test_each_node_of_a_distributed_database_is_asked(owner):
    """Its coordinator speaks for itself alone."""
    alone = database_identity(owner)
    owner.execute(NODES)
    prod = settings(environment="prod", allow_no_standby=True)
    strict = settings(environment="prod")
    assert database_identity(owner) == f"1={alone} 2={alone}"
    owner.execute("UPDATE node SET instead = '7:00000001' WHERE nodeid = 2")
    # A worker that was restored, or is another one.
    assert database_identity(owner) == f"1={alone} 2=7:00000001"
    owner.execute("""UPDATE node SET instead = '["on", "on", "s1"]'""")
    check_durability(strict, owner)
    owner.execute("""UPDATE node SET instead = '["off", "on", "s1"]' WHERE nodeid = 2""")
    with pytest.raises(Invalid, match="node 2 of the database runs with synchronous_commit=off"):
        check_durability(prod, owner)
    owner.execute("""UPDATE node SET instead = '["on", "on", ""]' WHERE nodeid = 2""")
    check_durability(prod, owner)
    with pytest.raises(Invalid, match="node 2 of the database has no synchronous standby"):
        check_durability(strict, owner)
    owner.execute("UPDATE node SET answers = false, instead = 'connection refused' WHERE nodeid = 2")
    for ask in (database_identity, lambda connection: check_durability(prod, connection)):
        with pytest.raises(Unavailable, match="node 2 of the database does not answer: connection refused"):
            ask(owner)
