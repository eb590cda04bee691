import pytest

from tests.runbook.book import Shell
from tests.support.server import Server


@pytest.fixture(scope="module")
def host(tmp_path_factory, upstream):
    """A host that serves, for the pages of a file that leave it serving."""
    with Server(
        tmp_path_factory.mktemp("host"),
        recorder_wait_s=1,
        bill_run_every_h=0,
        two_persons_above_yuan=20,
        webhook_allow_private="true",
    ) as host:
        host.env |= {"TOKENWORKS_LISTEN": host.public, "TOKENWORKS_ADMIN_LISTEN": host.admin}
        host.add_deployment("stub", "stub", upstream.url)
        yield host


@pytest.fixture
def shell(host, tmp_path):
    return Shell(host, tmp_path)
