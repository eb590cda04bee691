"""The SDKs' own tests through the gateway, against deployments that speak one protocol each."""

import pytest

from tests.edge import sdk_suites
from tests.edge.sdk_vendor import TOLD, ToldVendor
from tokenworks.catalog import Service

pytestmark = pytest.mark.xdist_group("edge-sdks")
SAMPLE = {
    "openai": (
        "tests/api_resources/chat/test_completions.py::TestCompletions::test_method_create_overload_1",
        "tests/api_resources/chat/test_completions.py::TestCompletions::test_method_create_overload_2",
    ),
    "anthropic": (
        "tests/api_resources/test_messages.py::TestMessages::test_method_create_overload_1",
        "tests/api_resources/test_messages.py::TestMessages::test_method_create_overload_2",
    ),
}


@pytest.fixture(scope="module")
def vendor(bench):
    made = ToldVendor()
    bench.await_(made.open())
    for name in sdk_suites.DEPLOYMENTS:
        url = f"http://127.0.0.1:{made.port}/v1"
        bench.server.add_deployment(f"sdk-{name}", f"sdk-{name}", url, "--protocol", name)
    return made


@pytest.fixture(scope="module")
def keys(bench, vendor):
    """protocol -> key: whatever model a request of the key names, the deployment that speaks only this protocol has it."""
    made = {}
    for name in sdk_suites.DEPLOYMENTS:
        offering = bench.server.sell(f"sdk-{name}", 10**10, Service(default_model=f"sdk-{name}"))
        made[name] = bench.server.subscriber(offering)[1]
    return made


def ran(bench, vendor, sdk, key, **more):
    told = f"http://127.0.0.1:{vendor.port}{TOLD}"
    return sdk_suites.run(sdk, f"http://{bench.server.public}", key, told, **more)


@pytest.mark.nightly
@pytest.mark.parametrize("deployment", sdk_suites.DEPLOYMENTS)
@pytest.mark.parametrize("sdk", SAMPLE)
def test_basic_requests_of_its_own_tests(bench, vendor, keys, sdk, deployment):
    lines = ran(bench, vendor, sdk, keys[deployment], tests=SAMPLE[sdk], install=True)
    assert len(lines) == len(SAMPLE[sdk])
    for line in lines:
        assert (line["ended"], line["reached"] > 0) == ("passed", True), line


@pytest.mark.nightly
def test_openais_own_tests_against_a_deployment_of_chat(bench, vendor, keys):
    lines = ran(bench, vendor, "openai", keys["chat"], install=True)
    assert sum(line["reached"] > 0 for line in lines) > len(lines) // 2
    found = list(sdk_suites.findings(lines, sdk_suites.skips("openai", "chat")))
    assert not found, "\n".join(found)
