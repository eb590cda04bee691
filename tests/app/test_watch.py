"""What an operator watches: the rules, the board and the table of the runbook agree with each other and with what a server exports."""

import http.client
import json
import re

import pytest
import yaml

from tests.support.exposition import check
from tests.support.promql import metrics_of
from tests.support.server import Server, until
from tokenworks.app import watch

BOARD = json.loads((watch.ROOT / "deploy/grafana/tokenworks.json").read_text())
PAGES = re.findall(r"^## (.*)$", watch.RUNBOOK.read_text(), re.MULTILINE)
# Prometheus's own, of a target.
ITS_OWN = {"up"}


def alerts():
    (group,) = yaml.safe_load(watch.ALERTS.read_text())["groups"]
    return group["rules"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, upstream):
    """{name of a sample: its family's type}, of a server that has served something and keeps its database's log."""
    folder = tmp_path_factory.mktemp("watched")
    with Server(folder / "host", archive_to=folder / "archive") as server:
        server.add_deployment("stub", "stub", upstream.url)
        yield exported_by(server)


def exported_by(server):
    _, key = server.subscriber()
    host, port = server.admin.rsplit(":", 1)

    def read():
        assert server.chat(key)[0] == 200
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        wanted = (
            'tokenworks_gateway_added_seconds_count{protocol="chat"}',
            "tokenworks_archive_behind_seconds",
        )
        return text if all(name in text for name in wanted) else None

    text = until(read, timeout_s=60, what="one of the requests in a sample, and what the archive says")
    found = {}
    for name, kind in check(text).items():
        for part in ("_bucket", "_count", "_sum") if kind == "histogram" else ("",):
            found[name + part] = kind
    labels = {}
    for name, said in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', said))
    return found, labels


def test_the_files_are_what_the_code_says():
    assert watch.ALERTS.read_text() == watch.rules(), "run: python -m tokenworks.app.watch"
    assert watch.table() in watch.RUNBOOK.read_text(), "run: python -m tokenworks.app.watch"
    assert watch.alert_table() in watch.OPERATIONS.read_text(), "run: python -m tokenworks.app.watch"


def test_each_alert_says_how_bad_it_is_what_it_is_and_what_to_do():
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    anchors = {watch.anchor(page) for page in PAGES}
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith(".")
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        file, _, page = rule["annotations"]["runbook_url"].partition("#")
        assert (watch.ROOT / file) == watch.RUNBOOK
        assert page in anchors, rule["alert"]


def test_thresholds_are_those_of_the_table():
    """Each number of a row's threshold is in an expression of its, or in how long it holds."""
    words = {"half": "0.5", "a fifth": "0.2", "90 %": "0.9", "a minute": "1m", "an hour": "1h"}
    for row in watch.WATCHED:
        text = row.alarm_at.replace("60 000", "60000").replace("99th", "0.99")
        for said, number in words.items():
            text = text.replace(said, number)
        rules = " ".join(f"{alert.expr} {alert.held}" for alert in row.alerts)
        for number in re.findall(r"\d+(?:\.\d+)?", re.sub(r"`[^`]*`", "", text)) if row.alerts else ():
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d|\.\d)", rules), (row.alarm_at, number)
        if row.alarm_at.startswith("a rise"):
            assert "increase(" in rules or "rate(" in rules or not row.alerts


def test_every_rule_asks_for_what_a_server_exports(exported):
    kinds, labels = exported
    for rule in alerts():
        _known(rule["expr"], kinds, labels)
    # And the names in the table.
    for name in re.findall(r"`(tokenworks_[a-z_]+)[`{]", watch.table()):
        assert name in kinds or f"{name}_bucket" in kinds, name


def test_the_board_asks_for_what_a_server_exports(exported):
    kinds, labels = exported
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in panels}) == len(panels) >= 10
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        for target in panel["targets"]:
            expr = re.sub(r',?instance=~"\$instance"', "", target["expr"]).replace("{}", "")
            _known(expr, kinds, labels)
    assert {variable["name"] for variable in BOARD["templating"]["list"]} == {"datasource", "instance"}


def _known(expr, kinds, labels):
    for name, asked in metrics_of(expr).items():
        if name in ITS_OWN:
            continue
        assert name in kinds, f"{name} of {expr} is not exported"
        assert asked <= labels.get(name, set()), f"{name} has no {asked}"
        counts = re.search(rf"(?:rate|increase)\({name}[{{\[]", expr)
        assert (counts is None) == (kinds[name] == "gauge"), f"{name} is a {kinds[name]} in {expr}"


@pytest.mark.parametrize(
    "wrong", ["sum(x", "rate(x) > 1", "x[5m] > 1", "x{a=1}", "x > > 1", "frate(x[5m])", "x y", "sum by (x", "1 +", 'x{a=~"b"', "increase(x[5])"],
)  # fmt: skip
def test_an_expression_that_is_none_is_found(wrong):
    with pytest.raises((AssertionError, KeyError)):
        metrics_of(wrong)
