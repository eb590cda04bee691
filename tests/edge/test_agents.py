"""Coding agents against deployments that speak one protocol each: their own tools, images, reasoning; charged by the vendor's figures."""

import json
import struct
import zlib

import pytest

from tests.edge.agents import Agent
from tests.edge.answers import TEXT
from tests.edge.check import Books
from tests.edge.vendor import TOLD_FILE, TOLD_WORD, Vendor, asks_for_a_tool, has_result, used_by
from tests.support.server import until

pytestmark = pytest.mark.xdist_group("edge-agents")
PROTOCOLS = ["chat", "messages", "responses"]
AGENTS = ["codex", "claude", "opencode", "qwen", "cline", "openclaw"]
# OpenClaw's envelope has the final text alone. Qwen Code sends images only to models whose names it knows, and OpenClaw's command takes none.
SHOW_REASONING = {"codex", "claude", "opencode", "qwen", "cline"}
SEND_IMAGES = {"codex", "claude", "opencode", "cline"}


@pytest.fixture(scope="module")
def vendor(bench):
    made = Vendor(asks_for_a_tool)
    bench.await_(made.open())
    for name in PROTOCOLS:
        url = f"http://127.0.0.1:{made.port}/v1"
        bench.server.add_deployment(f"only-{name}", f"only-{name}", url, "--protocol", name)
    return made


@pytest.fixture
def image(tmp_path):
    """A red square: a whole PNG, which agents decode."""
    side = 32
    rows = b"".join(b"\0" + b"\xff\x20\x20" * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]  # fmt: skip
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(made))
    return path


@pytest.mark.parametrize("name", ["codex", "claude"])
def test_agent_without_its_protocol(bench, vendor, tmp_path, image, name):
    agent_works(bench, vendor, tmp_path, image, name, "chat", install=False)


@pytest.mark.nightly
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", AGENTS)
def test_agent_against_one_protocol(bench, vendor, tmp_path, image, name, protocol):
    agent_works(bench, vendor, tmp_path, image, name, protocol, install=True)


def agent_works(bench, vendor, folder, image, name, protocol, *, install):
    subscriber, key = bench.server.subscriber("ctc-flagship")
    model, before = f"only-{protocol}", len(vendor.seen)
    url = f"http://{bench.server.public}"
    agent = Agent(folder / "home", url, key, model, image=image, install=install)
    (agent.work / TOLD_FILE).write_text(TOLD_WORD)
    said = getattr(agent, name)()
    assert TEXT in said, said[-3000:]
    asked = [(path, body) for _, path, _, body in vendor.seen[before:] if "count_tokens" not in path]
    assert {path.partition("?")[0].rpartition("/v1/")[2] for path, _ in asked} == {PATHS[protocol]}
    results = [body for _, body in asked if has_result(body)]
    assert len(results) == 1 and TOLD_WORD in json.dumps(results)
    if name in SHOW_REASONING:
        assert "I need the file." in said and "I have it." in said, said[-3000:]
    if name in SEND_IMAGES:
        assert sends_an_image(protocol, asked[-1][1]), json.dumps(asked[-1][1])[-3000:]
    charged_as_told(bench, subscriber, protocol, [body for _, body in asked])
    counted(bench, key, model)


PATHS = {"chat": "chat/completions", "messages": "messages", "responses": "responses"}


def sends_an_image(protocol, body):
    """True if a turn of the user has an image as the protocol has it, with its bytes."""
    kind = {"chat": "image_url", "messages": "image", "responses": "input_image"}[protocol]
    turns = [turn for turn in body.get("messages") or body["input"] if turn.get("role") == "user"]
    parts = [part for turn in turns if isinstance(turn["content"], list) for part in turn["content"]]
    return any(part["type"] == kind and "iVBORw0KGgo" in json.dumps(part) for part in parts)


def charged_as_told(bench, subscriber, protocol, bodies):
    """Each request is a record, charged class by class as the vendor's answer to it says."""
    until(lambda: len(bench.usage(subscriber)) >= len(bodies), what=f"{len(bodies)} usage records")
    bench.settled()
    books = Books(bench.usage(subscriber))
    told = [used_by(protocol, asks_for_a_tool(body).used) for body in bodies]
    wanted = {name: sum(each[name] for each in told) for name in told[0]}
    assert len(books.rows) == len(bodies), str(books)
    assert {name: count for name, count in books.charged.items() if count} == wanted, str(books)
    assert books.lost_tokens == 0 and books.drawn == sum(wanted.values()), str(books)
    assert {row["protocol"] for row in books.rows} == {protocol}
    assert {row["counted_by"] for row in books.rows} == {"provider"}


def counted(bench, key, model):
    body = {"model": model, "messages": [{"role": "user", "content": "say it"}]}
    status, content, _ = bench.server.request("POST", "/v1/messages/count_tokens", key, body)
    assert status == 200 and json.loads(content)["input_tokens"] > 0, content
