"""Writes docs/REFERENCE.md from the code: settings, commands, errors, routes. A test fails where the file differs.

Run: python -m tokenworks.cli.reference > docs/REFERENCE.md
"""

import importlib
import pkgutil

import click

import tokenworks
from tokenworks.app.exposition import LIMITS, RECORDER_COUNTERS
from tokenworks.app.http_app import openapi_document
from tokenworks.app.process.host_metrics import HostMetrics, make_admin_app
from tokenworks.app.settings import PREFIX, Settings
from tokenworks.charging import LOSS_CAUSES
from tokenworks.cli.main import cli
from tokenworks.factory import COUNT_PATHS, PROTOCOL_PATHS
from tokenworks.gateway import CODES, COMPACT_PATH, COUNTERS, GAUGES, OUTCOMES, SERIES_MAX
from tokenworks.kernel import Conflict, NotFound, TokenworksError
from tokenworks.web import status_of


def reference() -> str:
    """The whole page."""
    lines = [
        "# Reference",
        "",
        "Written by `make reference` from the code; a test fails where the two differ.",
        "",
        *_settings(),
        *_commands(),
        *_errors(),
        *_routes(),
        *_metrics(),
    ]
    return "\n".join(lines) + "\n"


def _settings() -> list[str]:
    lines = [
        "## Settings",
        "",
        "In `tokenworks.toml` in the data directory (or the file that `TOKENWORKS_CONFIG` names), or as a variable "
        f"`{PREFIX}<NAME>`; options of commands win over variables, variables over the file. Unknown names are errors. "
        "`tokenworks config show` prints the effective values and where each came from. Upstream credentials are "
        f"variables `{PREFIX}UPSTREAM_*` or files in `secrets_dir`. `{PREFIX}COMPILE` is no setting: `0` runs the sources of the data plane "
        "where compiled modules are there, too, and `1` refuses to run them.",
        "",
        "| setting | default | bounds | what |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        bounds = {type(mark).__name__: mark for mark in field.metadata}
        low = getattr(bounds.get("Ge"), "ge", None)
        high = getattr(bounds.get("Le"), "le", None)
        span = f"{low:,} – {high:,}" if low is not None and high is not None else ""
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {span} | {field.description} |")
    return [*lines, ""]


def _commands() -> list[str]:
    lines = [
        "## Commands",
        "",
        "`--data-dir DIR` goes before any of them, and so does `--single-role`. Everything that prints takes `--json`. Exit code 0: done; 1: refused, "
        "with one sentence on stderr; 2: the command line is wrong.",
        "",
    ]
    with click.Context(cli, info_name="tokenworks") as context:
        for path, command in _walk(cli, ()):
            lines += [f"### `tokenworks {' '.join(path)}`", "", f"{(command.help or '').strip()}", ""]
            options = [p for p in command.params if isinstance(p, click.Option) and p.name != "as_json"]
            arguments = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
            if arguments:
                lines += [f"Arguments: {', '.join(f'`{argument}`' for argument in arguments)}", ""]
            for option in options:
                note = f": {option.help}" if option.help else ""
                lines.append(f"- `{', '.join(option.opts)}`{' (required)' if option.required else ''}{note}")
            if options:
                lines.append("")
    return lines


def _walk(group: click.Group, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                found.append(((*path, name), command))
            found += _walk(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def _errors() -> list[str]:
    lines = [
        "## Errors of the API",
        "",
        "In the client's own protocol: `error.code` says which. Every response carries `x-request-id`; the usage record "
        "carries the same as `request_id`. A client's own id (`x-client-request-id` or `x-request-id` of its request) comes back as "
        "`x-client-request-id` and is kept as `client_request_id`. A refusal changes nothing and charges nothing.",
        "",
        "| code | status | what has happened | what to do |",
        "|---|---|---|---|",
    ]
    lines += [
        *(f"| `{name}` | {code.status} | {code.happened} | {code.todo} |" for name, code in CODES.items()),
        "",
        "What is about the account or its key is said in Chinese to a client whose `Accept-Language` begins with `zh`; a message that "
        "knows more (how much is left, what suspends the account) says it in that language, too:",
        "",
        "| code | in Chinese |",
        "|---|---|",
        *(f"| `{name}` | {code.zh} |" for name, code in CODES.items() if code.zh),
        "",
    ]
    lines += [
        "Of every other route: problem details (RFC 9457), `application/problem+json`. `title` says which; `detail` what to do. "
        "Commands say the same sentence on stderr, with exit code 1.",
        "",
        "| status | title | when |",
        "|---|---|---|",
    ]
    rows = sorted((status_of(kind), kind.__name__, str(kind.__doc__).splitlines()[0]) for kind in _kinds())
    return [*lines, *(f"| {status} | `{name}` | {said} |" for status, name, said in rows), ""]


def _kinds() -> list[type[TokenworksError]]:
    """Every error of ours that a route of the control plane can answer with."""
    for module in pkgutil.walk_packages(tokenworks.__path__, "tokenworks."):
        if not module.name.startswith("tokenworks.app.migrations") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[TokenworksError]] = []
    waiting: list[type[TokenworksError]] = [TokenworksError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        room = kind.__module__.split(".")[1]
        # Of charging, what one asks for is missing, or in the wrong state; the rest is between its processes.
        if (
            kind is not TokenworksError
            and (room != "charging" or issubclass(kind, NotFound | Conflict))
            and room != "factory"
        ):
            found.append(kind)
    return found


def _routes() -> list[str]:
    lines = ["## Routes", "", "| port | route | what |", "|---|---|---|"]
    for protocol, path in PROTOCOL_PATHS.items():
        lines.append(f"| public | `POST {path}` | {protocol}, streamed and not, metered |")
    for path in COUNT_PATHS.values():
        lines.append(f"| public | `POST {path}` | counts a request's tokens, costs nothing |")
    lines.append(f"| public | `POST {COMPACT_PATH}` | compacts a conversation, metered |")
    lines.append(
        "| public | `/v1/responses/{id}`, `/v1/chat/completions/{id}` and below | reads, lists and deletes stored answers ([RESPONSES](RESPONSES.md)) |"
    )
    lines.append("| public | `GET /v1/key`, `GET /v1/usage` | what is left to a key, and its usage in sums |")
    lines.append("| public | `GET /v1/models`, `GET /v1/models/{id}` | the models that this key may use |")
    lines.append("| public | `GET /healthz`, `GET /readyz` | of the worker that answers |")
    settings = Settings()
    for route in make_admin_app(HostMetrics(settings)).routes:
        path = getattr(route, "path", "")
        if path:
            lines.append(f"| admin | `GET {path}` | |")
    lines += [
        "",
        "Beside these, on the public port, by role (`docs/openapi.json`, and served as `/openapi.json`, says more):",
        "",
        "| route | what | who |",
        "|---|---|---|",
    ]
    for path, operations in openapi_document()["paths"].items():
        for method, operation in operations.items():
            roles = ", ".join(operation.get("x-roles", ())) or "anybody"
            lines.append(f"| `{method.upper()} {path}` | {operation['summary']} | {roles} |")
    return [*lines, ""]


def _metrics() -> list[str]:
    return [
        "## Metrics",
        "",
        "`GET /metrics` on the admin port, Prometheus text. Per worker (label `worker`; they begin at nothing with each worker): "
        + ", ".join(f"`tokenworks_{name}{'' if name in GAUGES else '_total'}`" for name in COUNTERS)
        + "; histograms `tokenworks_first_byte_ms`, `tokenworks_latency_ms`, `tokenworks_loop_lag_ms`.",
        "",
        "By `model` and `deployment`, sums over the workers of a host, which go on when a worker or the server is started anew: "
        "`tokenworks_model_requests_total` by `outcome` ("
        + ", ".join(OUTCOMES)
        + "), `tokenworks_model_attempts_total`, "
        "`tokenworks_model_attempts_failed_total`, `tokenworks_model_tokens_total` by `class`; histograms "
        "`tokenworks_model_first_byte_seconds`, `tokenworks_model_request_seconds`; by `protocol`, "
        "`tokenworks_gateway_added_seconds`. "
        f"The first {SERIES_MAX} pairs by name have series of their own, the others are `other`; what got no model or deployment "
        "is `none`. Names that clients write are no labels.",
        "",
        "Of the recorder: `tokenworks_recorder_*` (written and settled sequence, unsettled records, open attempts, open grants, "
        "granted quantity, by how much the host's clock is ahead of the database's and how far off that may be, requests that wait, "
        "accounts over their loss budget, whether database and settlement answer), counters "
        + ", ".join(f"`tokenworks_recorder_{name}_total`" for name in sorted(RECORDER_COUNTERS))
        + ", histograms `tokenworks_recorder_commit_seconds`, `tokenworks_recorder_settle_seconds`; and `tokenworks_loss_tokens_total` "
        "by `cause`. They begin at nothing with each recorder. Of the jobs: `tokenworks_failed_jobs` by `job` (cycle, credit, refund, bill) "
        "and `state` (retrying, quarantined). Of the archive, where archive_to is set: `tokenworks_archive_files_total`, "
        "`tokenworks_archive_failures_total`, `tokenworks_archive_behind_seconds`. `tokenworks_single_role` is 1 where the database's role could change history. Where otlp_endpoint is set: `tokenworks_spans_exported_total`, `tokenworks_spans_dropped_total`. `tokenworks_build` is 1, its label `build` says whether the data plane runs compiled or interpreted.",
        "",
        "Limits, under their settings' names, beside what is compared with them: "
        + ", ".join(f"`tokenworks_{name}`" for name in LIMITS)
        + ". Alert rules: `deploy/prometheus/alerts.yml`; a board: `deploy/grafana/tokenworks.json`.",
        "",
        "## Losses",
        "",
        "What was produced and nobody pays for, in a usage record's `loss` and in `tokenworks ledger losses`: `{cause, requests, counts}`, "
        "tokens by class. Charged parts and losses of a record add up to what it counts, class by class (`tokenworks ledger verify`).",
        "",
        "| cause | what it means |",
        "|---|---|",
        *(f"| `{cause}` | {meaning} |" for cause, meaning in LOSS_CAUSES.items()),
    ]


def main() -> None:
    print(reference(), end="")


if __name__ == "__main__":
    main()
