"""`tokenworks staff`: who may ask over HTTP, and their tokens."""

from datetime import timedelta
from uuid import UUID

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, print_result
from tokenworks.cli.trail import Params, audited
from tokenworks.trust import StaffRole


def _day(at: object) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"


def _minute(at: object) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"


def _staff_now(services: AppServices, params: Params) -> object:
    return next(s for s in services.identity.staff() if s["name"] == params["name"])


def _account_now(services: AppServices, params: Params) -> object:
    return services.staff_sign_in.account(params["name"])._asdict()


def _sessions_now(services: AppServices, params: Params) -> object:
    return len(services.staff_sessions.live(services.staff_sign_in.staff_id_of(params["name"])))


@click.command("add")
@audited(_staff_now)
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["operator", "finance", "auditor"]), required=True)
@click.option("--email", help="Its email at the OpenID provider, by which it may sign in there.")
@json_option
@pass_context
def staff_add(context: Context, name: str, role: StaffRole, email: str | None, as_json: bool) -> None:
    """Add a person to the staff. Their token is shown this once."""
    with context.services() as services, services.transaction():
        token = services.identity.add_staff(name, role)
        if email is not None:
            services.staff_sign_in.set_email(name, email)
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
    """Make a new token for a person; it is shown only once. Without an overlap, the person's sessions on the console end, too."""
    with context.services() as services:
        token = services.identity.rotate_staff(name, timedelta(hours=overlap_h))
    print_result({"name": name, "token": token}, f"{name}'s new token, shown this once:\n{token}", as_json)


@click.command("show")
@click.option("--name", required=True)
@json_option
@pass_context
def staff_show(context: Context, name: str, as_json: bool) -> None:
    """A staff member: its role, how it signs in, its sessions."""
    with context.services() as services:
        account = services.staff_sign_in.account(name)
        live = services.staff_sessions.live(account.staff_id)
    if as_json:
        print_json({**account._asdict(), "sessions": live})
        return
    rows = [
        ("role", account.role), ("since", _minute(account.created_at)), ("revoked", _minute(account.revoked_at)),
        ("email", account.email or ""), ("at the OpenID provider", "linked" if account.is_linked else ""),
        ("authenticator", "yes" if account.has_authenticator else "no"), ("recovery codes left", str(account.recovery_codes_left)),
        ("sessions", str(len(live))),
    ]  # fmt: skip
    print_table(account.name, ["", ""], rows)


@click.command("role")
@audited(_account_now)
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["operator", "finance", "auditor"]), required=True)
@json_option
@pass_context
def staff_role(context: Context, name: str, role: StaffRole, as_json: bool) -> None:
    """Change a person's role. Its sessions end; its tokens have the new role at once."""
    with context.services() as services:
        ended = services.staff_sign_in.set_role(name, role)
    print_result(
        {"name": name, "role": role, "sessions_ended": ended},
        f"{name} is {role}. {ended} session(s) ended.",
        as_json,
    )


@click.command("email")
@audited(_account_now)
@click.option("--name", required=True)
@click.option("--email", required=True, help="As the OpenID provider has verified it.")
@json_option
@pass_context
def staff_email(context: Context, name: str, email: str, as_json: bool) -> None:
    """Let a person sign in by the OpenID provider with this email, in place of an earlier account there."""
    with context.services() as services:
        ended = services.staff_sign_in.set_email(name, email)
    print_result(
        {"name": name, "email": email, "sessions_ended": ended},
        f"{name} may sign in as {email}. {ended} session(s) ended.",
        as_json,
    )


@click.command("enrol")
@audited(_account_now)
@click.option("--name", required=True)
@json_option
@pass_context
def staff_enrol(context: Context, name: str, as_json: bool) -> None:
    """Make a one-time link with which a person sets up an authenticator. It is valid for a day, together with the person's token."""
    with context.services() as services:
        link = services.staff_sign_in.make_link(name)
    path = f"/ops/enrol?link={link}"
    print_result(
        {"name": name, "path": path}, f"Open it on the staff port, with the token of {name}:\n{path}", as_json
    )


@click.command("sessions")
@click.option("--name", help="Of this person; left out: of all.")
@json_option
@pass_context
def staff_sessions(context: Context, name: str | None, as_json: bool) -> None:
    """Live sessions of staff on the console, newest first."""
    with context.services() as services:
        staff_id = None if name is None else services.staff_sign_in.staff_id_of(name)
        found = services.staff_sessions.live(staff_id)
    if as_json:
        print_json(found)
        return
    rows = [
        (session.session_id, session.name, session.method, _minute(session.created_at), session.seen_address or "", _minute(session.seen_at))
        for session in found
    ]  # fmt: skip
    print_table("Staff sessions", ["id", "name", "by", "since", "from", "seen last"], rows)


@click.command("sign-out")
@audited(_sessions_now)
@click.option("--name", required=True)
@click.option("--session", "session_id", type=click.UUID, help="This one; left out: all of them.")
@json_option
@pass_context
def staff_sign_out(context: Context, name: str, session_id: UUID | None, as_json: bool) -> None:
    """End a person's sessions on the console, at once."""
    with context.services() as services:
        staff_id = services.staff_sign_in.staff_id_of(name)
        if session_id is None:
            ended = services.staff_sessions.end_all(staff_id)
        else:
            ended = int(services.staff_sessions.end(staff_id, session_id))
    print_result({"name": name, "ended": ended}, f"{ended} session(s) ended.", as_json)
