import pytest

from tests.edge.run import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """One server of this process for all tests of the edge that don't need settings of their own."""
    with Bench(tmp_path_factory.mktemp("edge")) as running:
        yield running
