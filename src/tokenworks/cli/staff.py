"""`tokenworks staff`: who may ask over HTTP, and their tokens."""

from datetime import timedelta

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.trust import StaffRole


def _day(at: object) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"


def _staff_now(services: AppServices, params: Params) -> object:
    return next(s for s in services.identity.staff() if s["name"] == params["name"])


@click.command("add")
@audited(_staff_now)
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["operator", "finance", "auditor"]), required=True)
@json_option
@pass_context
def staff_add(context: Context, name: str, role: StaffRole, as_json: bool) -> None:
    """Add a person to the staff. Their token is shown this once."""
    with context.services() as services:
        token = services.identity.add_staff(name, role)
    print_result(
        {"name": name, "role": role, "token": token},
        f"{name} is {role}. Their token, shown this once:\n{token}",
        as_json,
    )


@click.command("list")
@json_option
@pass_context
def staff_list(context: Context, as_json: bool) -> None:
    """Staff and their roles."""
    with context.services() as services:
        found = services.identity.staff()
    if as_json:
        print_json(found)
    else:
        rows = [
            (s["name"], s["role"], "revoked" if s["revoked_at"] else "live", _day(s["token_expires_at"]), _day(s["seen_at"]))
            for s in found
        ]  # fmt: skip
        print_table("Staff", ["name", "role", "state", "token until", "seen last"], rows)


@click.command("revoke")
@audited(_staff_now)
@click.option("--name", required=True)
@json_option
@pass_context
def staff_revoke(context: Context, name: str, as_json: bool) -> None:
    """Revoke a person's access, at once."""
    with context.services() as services:
        services.identity.revoke_staff(name)
    print_result({"name": name, "revoked": True}, f"{name} is revoked.", as_json)


@click.command("rotate")
@audited(_staff_now)
@click.option("--name", required=True)
@click.option("--overlap-h", type=click.IntRange(0, 720), default=24, show_default=True, help="How long earlier tokens stay valid.")  # fmt: skip
@json_option
@pass_context
def staff_rotate(context: Context, name: str, overlap_h: int, as_json: bool) -> None:
    """Make a new token for a person; it is shown only once."""
    with context.services() as services:
        token = services.identity.rotate_staff(name, timedelta(hours=overlap_h))
    print_result({"name": name, "token": token}, f"{name}'s new token, shown this once:\n{token}", as_json)
