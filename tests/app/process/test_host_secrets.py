"""What the processes of a host have of the secrets, and what the database hears of it."""

import json

import pytest

from tokenworks.app.process.host_secrets import SUFFIX, HostReport, ProcessSecrets, loaded_by_all
from tokenworks.kernel import Conflict, uuid7
from tokenworks.trust import (
    HostSecrets,
    all_peppers,
    check_peppers,
    ensure_pepper,
    host_secrets,
    load_peppers,
    load_vault_secrets,
    new_pepper,
    use_pepper,
)

PROCESSES = ["control", "recorder", "worker-0"]


@pytest.fixture
def secrets(tmp_path, services):
    folder = tmp_path / "secrets"
    ensure_pepper(folder)
    check_peppers(services.connection, load_peppers(folder), folder, services.clock.now())
    return folder


@pytest.fixture
def host(tmp_path, secrets):
    """Its processes by name."""
    (tmp_path / "worker-0.stats").touch()
    return {
        name: ProcessSecrets(secrets, tmp_path, name, load_peppers(secrets), None if name == "worker-0" else load_vault_secrets(secrets))
        for name in PROCESSES
    }  # fmt: skip


def test_a_host_has_what_all_of_its_processes_have(host, tmp_path, secrets, services):
    assert [set(loaded_by_all(tmp_path, PROCESSES)[at]) for at in (0, 1)] == [{"1"}, {"1"}]
    new_pepper(services.connection, secrets, services.clock.now())
    for name in ("control", "recorder"):
        assert host[name].load_new() and not host[name].load_new()
    assert set(loaded_by_all(tmp_path, PROCESSES).peppers) == {"1"}
    assert host["worker-0"].load_new()
    assert set(loaded_by_all(tmp_path, PROCESSES).peppers) == {"1", "2"}
    # A process that has not said anything may have nothing.
    (tmp_path / f"worker-0{SUFFIX}").unlink()
    assert loaded_by_all(tmp_path, PROCESSES).peppers == {}


def test_what_is_half_there_is_taken_when_it_is_whole(host, secrets):
    worker = host["worker-0"]
    before = worker.peppers
    path = secrets / "pepper-2"
    for content, mode in ((b"", 0o600), (b"x" * 10, 0o600), (b"x" * 32, 0o644)):
        path.write_bytes(content)
        path.chmod(mode)
        assert not worker.load_new()
    path.chmod(0o600)
    assert worker.load_new() and set(worker.peppers) == {1, 2}
    # Whoever reads the ones of before is not disturbed, and nothing is made under a new one by itself.
    assert set(before) == {1} and worker.peppers.issuing == 1
    # One that came while serving is corrected; one of the start stays, and what is gone from the disk is kept.
    path.write_bytes(b"y" * 32)
    assert worker.load_new() and worker.peppers[2] == b"y" * 32
    (secrets / "pepper-1").write_bytes(b"z" * 32)
    path.unlink()
    assert not worker.load_new() and worker.peppers[1] == before[1] and worker.peppers[2] == b"y" * 32


def test_no_secret_is_in_a_report(host, tmp_path, secrets):
    for name in PROCESSES:
        text = (tmp_path / f"{name}{SUFFIX}").read_text()
        assert set(json.loads(text)) == {"peppers", "issues_under", "wrapping"}
        for path in secrets.iterdir():
            assert path.read_bytes().hex() not in text


def test_the_database_hears_of_what_is_the_works_own(host, tmp_path, secrets, services):
    journal_id = uuid7()
    report = HostReport(secrets, tmp_path, journal_id)

    def reported():
        assert report.tell(services.connection) == []
        return host_secrets(services.connection, [(journal_id, "a", services.clock.now())])[0]

    assert (reported().peppers, reported().issues_under, reported().reports) == ((1,), 1, True)
    # A file that was not announced is loaded, and none of the works'.
    (secrets / "pepper-2").write_bytes(b"x" * 32)
    (secrets / "pepper-2").chmod(0o600)
    for process in host.values():
        process.load_new()
    assert reported().peppers == (1,)
    assert new_pepper(services.connection, secrets, services.clock.now()) == 3
    with pytest.raises(Conflict, match="pepper-3 is not loaded on a"):
        use_pepper(services.connection, 3, services.clock.now(), [reported()])
    for process in host.values():
        process.load_new()
    use_pepper(services.connection, 3, services.clock.now(), [reported()])
    assert [row.used_since is not None for row in all_peppers(services.connection)] == [True, True]


def test_a_host_that_lacks_what_is_used_hears_so(host, tmp_path, secrets, services):
    report = HostReport(secrets, tmp_path, uuid7())
    new_pepper(services.connection, secrets, services.clock.now())
    assert report.tell(services.connection) == []
    use_pepper(services.connection, 2, services.clock.now(), force=True)
    assert report.tell(services.connection) == [2]
    for process in host.values():
        process.load_new()
    assert report.tell(services.connection) == []


def test_a_host_of_an_earlier_release_counts_as_one_that_lacks_it(secrets, services):
    new_pepper(services.connection, secrets, services.clock.now())
    (old,) = host_secrets(services.connection, [(uuid7(), "old", services.clock.now())])
    assert old == HostSecrets(old.journal_id, "old", old.seen_at) and not old.reports
    with pytest.raises(Conflict, match="pepper-2 is not loaded on old"):
        use_pepper(services.connection, 2, services.clock.now(), [old])
