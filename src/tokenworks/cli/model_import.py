"""`tokenworks model import`: facts of models from a file, over those that are shipped."""

from hashlib import sha256
from pathlib import Path
from typing import Final, cast

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.edge import read_bytes
from tokenworks.app.output import json_text, print_json, say
from tokenworks.cli.base import Context, json_option, pass_context
from tokenworks.cli.options import dry_run_option
from tokenworks.cli.trail import Params, audited
from tokenworks.factory import (
    FILE_FORMATS,
    FileFormat,
    ImportPlan,
    ModelsFile,
    list_price_text,
    read_models_file,
)

# Lines of each part that are printed for people; --json has all.
LINES_MAX: Final = 40
NO_PRICES: Final = "Rate cards, deployments and declared models stay as they are: an import changes nothing of what customers pay."


def _facts_now(services: AppServices, _params: Params) -> object:
    """The number of imported models, and the hash of what is imported: the whole may be thousands of models."""
    imported = {
        name: facts.model_dump(mode="json") for name, facts in services.known_models.imported().items()
    }
    return {"imported": len(imported), "sha256": sha256(json_text(imported, None).encode()).hexdigest()}


@click.command("import")
@audited(_facts_now)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(FILE_FORMATS), help="The file's form (default: by its shape)."
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@dry_run_option
@json_option
@pass_context
def model_import(
    context: Context, file: Path, form: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Import facts of models from a file: our own YAML, LiteLLM's prices and contexts, or OpenRouter's list. The difference is shown first. Customers' prices stay: they are in rate cards."""
    if as_json and not yes and not dry_run:
        raise click.UsageError("--json asks nothing: add --yes or --dry-run")
    with context.services() as services:
        date = services.clock.now().date().isoformat()
        content = read_models_file(
            read_bytes(file),
            services.known_models.index(),
            f"import of {file.name}",
            date,
            cast("FileFormat | None", form),
        )
        plan = services.known_models.plan(content.models)
        if not as_json:
            _show(content, plan)
        if plan.writes and not dry_run:
            if not yes:
                click.confirm("Import this?", abort=True)
            services.known_models.apply(plan)
    if as_json:
        print_json(_as_json(content, plan, dry_run=dry_run))
    elif not plan.writes:
        say(f"Nothing to import: everything is known already. {NO_PRICES}")
    else:
        done = "would be imported" if dry_run else "are imported"
        say(f"{len(plan.writes)} models {done}. {NO_PRICES}")


def _as_json(content: ModelsFile, plan: ImportPlan, *, dry_run: bool) -> dict[str, object]:
    return {
        "format": content.format,
        "entries": content.entries,
        "added": sorted(plan.added),
        "changed": {name: [change._asdict() for change in found] for name, found in plan.changed.items()},
        "same": plan.same,
        "not_understood": [problem._asdict() for problem in content.problems],
        "not_understood_total": content.problems_total,
        "dry_run": dry_run,
        "customer_prices": "unchanged",
    }


def _show(content: ModelsFile, plan: ImportPlan) -> None:
    say(
        f"{content.entries} entries of the form {content.format}: {len(plan.added)} models are new, {len(plan.changed)} change, {plan.same} stay."
    )
    added = [f"  + {name}  {list_price_text(facts)}".rstrip() for name, facts in plan.added.items()]
    changed = [
        f"  ~ {name}: {change.field}: {_text(change.before)} -> {_text(change.after)}"
        for name, found in plan.changed.items()
        for change in found
    ]
    wrong = [f"  ! {problem.where}: {problem.reason}" for problem in content.problems]
    for title, lines, total in (
        ("New", added, len(added)),
        ("Changed", changed, len(changed)),
        ("Not understood, and left out", wrong, content.problems_total),
    ):
        if lines:
            say("\n".join([f"{title}:", *lines[:LINES_MAX]]))
            if total > LINES_MAX:
                say(f"  ... and {total - LINES_MAX} more: --json shows them.")


def _text(value: object) -> str:
    if value is None or value == ():
        return "not known"
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
