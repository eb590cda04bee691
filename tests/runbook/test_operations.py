"""From a symptom to a page: every link resolves, what is said to be seen is what the code says, and nothing is left out."""

import ast
import re
from functools import cache

import pytest

from tests.support.server import ROOT
from tokenworks.app import watch
from tokenworks.app.process import host_metrics
from tokenworks.gateway import CODES

PATH = ROOT / "docs/OPERATIONS.md"
# What a client is told that is not of its own making.
LED_TO = ("401", "402", "403", "429", "502", "503", "504")


@cache
def sections():
    """By heading: the rows of its table as (what is seen, page)."""
    found, title = {}, ""
    for line in PATH.read_text().splitlines():
        if line.startswith("## "):
            title = line[3:]
            found[title] = []
        elif line.startswith("| ") and not line.startswith("|---"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[title].append((cells[0].strip(), cells[-1].strip()))
    return {title: rows[1:] for title, rows in found.items()}


def said(title):
    """The code spans of what is seen, in one section."""
    return [span for seen, _ in sections()[title] for span in re.findall(r"`([^`]+)`", seen)]


def anchor(heading):
    """As a page of Markdown makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "path", [PATH, ROOT / "README.md", ROOT / "docs/RUNBOOK.md"], ids=lambda path: path.name
)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, target


def test_every_row_leads_to_a_page_or_says_what_to_do():
    for title, rows in sections().items():
        assert title == "Clients are refused" or rows, f"{title} has no row"
        for seen, page in rows:
            assert page and seen, (title, seen, page)


def test_every_page_is_led_to():
    linked = set(re.findall(r"RUNBOOK\.md#([\w-]+)", PATH.read_text()))
    pages = {
        anchor(heading)
        for heading in re.findall(r"^## (.*)$", (ROOT / "docs/RUNBOOK.md").read_text(), re.MULTILINE)
    }
    assert pages <= linked, f"pages that no symptom leads to: {pages - linked}"


def test_every_refusal_that_a_client_did_not_cause_is_there_and_no_other():
    named = {span for span in said("Clients are refused") if re.fullmatch(r"[a-z_]+", span)}
    wanted = {code for code, said in CODES.items() if said.status.startswith(LED_TO)}
    assert named <= set(CODES), f"no such codes: {named - set(CODES)}"
    assert wanted <= named, f"codes that lead nowhere: {wanted - named}"
    for seen, _ in sections()["Clients are refused"]:
        status = ""
        for part in re.findall(r"\b(\d{3})\b|`([a-z_]+)`", seen):
            status = part[0] or status
            assert not part[1] or status in CODES[part[1]].status, seen


def strings(node):
    """The texts of an expression: of an f-string what is constant, … for the rest."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(strings(value) if isinstance(value, ast.Constant) else "…" for value in node.values)
    return None


@cache
def code_texts():
    """All that the code may say."""
    texts = []
    for path in sorted((ROOT / "src/tokenworks").rglob("*.py")):
        texts += [found for node in ast.walk(ast.parse(path.read_text())) if (found := strings(node))]
    return "\n".join(texts)


@pytest.mark.parametrize(
    "title",
    ["`/readyz` is 503", "`tokenworks serve` does not start", "A command hangs, or says that it waits"],
)
def test_messages_are_those_of_the_code(title):
    for message in said(title):
        if not message.startswith("tokenworks "):
            for part in message.split("…"):
                assert part.strip() in code_texts(), f"nothing says {part!r}"


def calls(path, *names):
    for node in ast.walk(ast.parse((ROOT / "src/tokenworks" / path).read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in names and node.args:
                yield node, name


def test_all_that_readyz_may_say_leads_somewhere():
    named = {re.sub(r"….*", "", message) for message in said("`/readyz` is 503")}
    for path in ("app/process/host_metrics.py", "gateway/upkeep.py"):
        reasons = {
            strings(node.args[0]) or getattr(host_metrics, node.args[0].id)
            for node, _ in calls(path, "append") if ast.unparse(node.func) == "reasons.append"
        }  # fmt: skip
        assert reasons and {re.sub(r"….*|: `.*", "", reason) for reason in reasons} <= named, reasons


def test_all_that_the_doctor_looks_at_leads_somewhere():
    checks = {strings(node.args[0]) for node, _ in calls("app/doctor.py", "Finding", "_guarded")} - {None}
    checks = {re.sub("…+", "…", check) for check in checks}
    # Those that a loop names.
    for node in ast.walk(ast.parse((ROOT / "src/tokenworks/app/doctor.py").read_text())):
        if (
            isinstance(node, ast.For)
            and isinstance(node.iter, ast.Tuple)
            and ast.unparse(node.target).startswith("(check")
        ):
            checks |= {strings(row.elts[0]) for row in node.iter.elts}
    named = set(said("What the doctor finds"))
    assert {"clock", "public port", "credential of …"} <= checks
    assert checks <= named, f"checks that lead nowhere: {checks - named}"


def test_every_alert_leads_somewhere():
    known = set(said("Alerts"))
    for row in watch.WATCHED:
        assert {*watch.metrics_of(row), *(alert.name for alert in row.alerts)} <= known
    assert set(re.findall(r"alert: (\w+)", watch.ALERTS.read_text())) <= known
