"""`tokenworks job`: jobs that failed."""

from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.charging import JOB_NAMES, JobName
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.subscriptions import minute_of


def _failed_job_now(services: AppServices, params: Params) -> object:
    found = services.failed_jobs.all()
    return next(f for f in found if (f.job, f.ref) == (params["job_name"], params["ref"]))


@click.command("list")
@json_option
@pass_context
def job_list(context: Context, as_json: bool) -> None:
    """Failed jobs, oldest first: jobs that are tried again, and jobs in quarantine."""
    with context.services() as services:
        found = services.failed_jobs.all()
    if as_json:
        print_json(found)
        return
    rows = [
        (f.job, f.ref, f.state, f.attempts, minute_of(f.next_at) if f.state == "retrying" else "", f.reason)
        for f in found
    ]  # fmt: skip
    columns = ["job", "about", "state", "attempts", "next", "why"]
    print_table("Failed jobs", columns, rows, right=["attempts"])


@click.command("release")
@audited(_failed_job_now)
@click.argument("job_name", type=click.Choice(JOB_NAMES))
@click.argument("ref", type=click.UUID)
@json_option
@pass_context
def job_release(context: Context, job_name: JobName, ref: UUID, as_json: bool) -> None:
    """Try a failed job again in the next run, once its cause is repaired."""
    with context.services() as services:
        services.failed_jobs.release(job_name, ref)
    print_result(
        {"job": job_name, "ref": ref, "state": "released"}, f"{job_name} {ref} is tried again.", as_json
    )
