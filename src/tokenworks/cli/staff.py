"""The commands of staff and of trust: who may, their tokens, approvals, peppers, sessions, the audit trail."""

from datetime import timedelta
from typing import Final
from uuid import UUID

import click

from tokenworks.app.host_secrets import fleet, wait_for_hosts
from tokenworks.app.output import json_text, print_json, print_table
from tokenworks.cli.base import Context, json_option, pass_context, said, subscriber_option, wait_option
from tokenworks.kernel import format_money
from tokenworks.trust import StaffRole, all_peppers, new_pepper, retire_pepper, use_pepper

LIST_DEFAULT: Final = 50


def _day(at: object) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"


@click.group()
def staff() -> None:
    """Who may ask over HTTP as operator, finance or auditor."""


@staff.command("add")
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(["operator", "finance", "auditor"]), required=True)
@json_option
@pass_context
def staff_add(context: Context, name: str, role: StaffRole, as_json: bool) -> None:
    """Add somebody. Their token is shown this once."""
    with context.works() as works:
        token = works.identity.add_staff(name, role)
    said(
        {"name": name, "role": role, "token": token},
        f"{name} is {role}. Their token, shown this once:\n{token}",
        as_json,
    )


@staff.command("list")
@json_option
@pass_context
def staff_list(context: Context, as_json: bool) -> None:
    """Staff and their roles."""
    with context.works() as works:
        found = works.identity.staff()
    if as_json:
        print_json(found)
    else:
        rows = [
            (s["name"], s["role"], "revoked" if s["revoked_at"] else "live", _day(s["token_expires_at"]), _day(s["seen_at"]))
            for s in found
        ]  # fmt: skip
        print_table("Staff", ["name", "role", "state", "token until", "seen last"], rows)


@staff.command("revoke")
@click.option("--name", required=True)
@json_option
@pass_context
def staff_revoke(context: Context, name: str, as_json: bool) -> None:
    """Somebody may ask no more, from now on."""
    with context.works() as works:
        works.identity.revoke_staff(name)
    said({"name": name, "revoked": True}, f"{name} is revoked.", as_json)


@staff.command("rotate")
@click.option("--name", required=True)
@click.option("--overlap-h", type=click.IntRange(0, 720), default=24, show_default=True, help="So long earlier tokens stay good.")  # fmt: skip
@json_option
@pass_context
def staff_rotate(context: Context, name: str, overlap_h: int, as_json: bool) -> None:
    """A new token for somebody, shown this once."""
    with context.works() as works:
        token = works.identity.rotate_staff(name, timedelta(hours=overlap_h))
    said({"name": name, "token": token}, f"{name}'s new token, shown this once:\n{token}", as_json)


@click.command()
@click.option("--ref", help="Of this subscriber, product, order, bill … alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def audit(context: Context, ref: str | None, limit: int, as_json: bool) -> None:
    """Who did what to what, newest first."""
    with context.works() as works:
        found, count = works.identity.audited(ref, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (f"{row['at']:%Y-%m-%d %H:%M:%S}", row["actor"], row["role"], row["address"] or "", row["action"], row["ref"], json_text(row["after"], None))
        for row in found
    ]  # fmt: skip
    print_table(
        f"Audit trail ({len(found)} of {count})", ["at", "who", "role", "from", "did", "to", "with"], rows
    )


@click.group()
def approval() -> None:
    """Two persons for money above `two_persons_above_yuan`."""


@approval.command("list")
@click.option("--state", type=click.Choice(["open", "approved", "refused", "used"]))
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
@pass_context
def approval_list(context: Context, state: str | None, limit: int, as_json: bool) -> None:
    """What is asked for, newest first."""
    with context.works() as works:
        found, count = works.approvals.all(state, 0, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (one.approval_id, one.action, one.ref, format_money(one.amount_nano), one.asked_by, one.state, one.decided_by or "")
        for one in found
    ]  # fmt: skip
    columns = ["id", "what", "of", "CNY", "asked by", "state", "decided by"]
    print_table(f"Approvals ({len(found)} of {count})", columns, rows, right=["CNY"])


@approval.command("give")
@click.argument("approval_id", type=click.UUID)
@json_option
@pass_context
def approval_give(context: Context, approval_id: UUID, as_json: bool) -> None:
    """Approve what another person asks for; they do it then."""
    with context.works() as works:
        made = works.approvals.decide(approval_id, context.actor, approve=True)
    text = f"{made.asked_by} may give back {format_money(made.amount_nano)} CNY now: {made.action} of {made.ref}."
    said(made, text, as_json)


@approval.command("refuse")
@click.argument("approval_id", type=click.UUID)
@json_option
@pass_context
def approval_refuse(context: Context, approval_id: UUID, as_json: bool) -> None:
    """Refuse it, or take back what one asked for."""
    with context.works() as works:
        made = works.approvals.decide(approval_id, context.actor, approve=False)
    said(made, f"{made.action} of {made.ref} is refused.", as_json)


@click.group()
def pepper() -> None:
    """What keys, sessions and tokens are hashed under: the same files on every host."""


@pepper.command("list")
@json_option
@pass_context
def pepper_list(context: Context, as_json: bool) -> None:
    """Versions, by fingerprint, which one is used, and which ones each host of the fleet has loaded."""
    with context.works() as works:
        found, hosts = all_peppers(works.connection), fleet(works)
    if as_json:
        print_json(
            [
                row._asdict()
                | {
                    "fingerprint": row.fingerprint.hex(),
                    "hosts": [
                        {
                            "host": host.host,
                            "journal_id": host.journal_id,
                            "seen_at": host.seen_at,
                            "loaded": row.version in host.peppers,
                        }
                        for host in hosts
                    ],
                }
                for row in found
            ]
        )
        return
    rows = [
        (
            row.version,
            row.fingerprint.hex()[:12],
            _day(row.added_at),
            _day(row.used_since),
            _day(row.retired_at),
        )
        for row in found
    ]
    print_table("Peppers", ["version", "fingerprint", "since", "used since", "retired"], rows)
    on_hosts = [
        (
            host.host,
            str(host.journal_id)[-12:],
            f"{host.seen_at:%Y-%m-%d %H:%M:%S}",
            ", ".join(map(str, host.peppers)) if host.reports else "it has not said",
            host.issues_under or "",
        )
        for host in hosts
    ]
    print_table("Hosts", ["host", "journal", "heard of at (UTC)", "has loaded", "makes keys under"], on_hosts)


@pepper.command("new")
@json_option
@pass_context
def pepper_new(context: Context, as_json: bool) -> None:
    """Make the next version on this host. It is not used yet: copy the file to all hosts, then `pepper use`."""
    secrets = context.settings().secrets
    with context.works() as works:
        version = new_pepper(works.connection, secrets, works.clock.now())
    text = (
        f"{secrets}/pepper-{version}: copy it to the secrets of every host, mode 600, then `tokenworks pepper use {version}`. "
        "Hosts that serve take it within seconds; `tokenworks pepper list` shows which have."
    )
    said({"version": version, "path": secrets / f"pepper-{version}"}, text, as_json)


@pepper.command("use")
@click.argument("version", type=click.IntRange(1, 100))
@wait_option
@click.option("--force", is_flag=True, help="Though a host has not loaded it: that host is gone. One that comes back without the file serves nobody.")  # fmt: skip
@json_option
@pass_context
def pepper_use(context: Context, version: int, wait_s: int, force: bool, as_json: bool) -> None:
    """From now on make what is new under this version. Refused while a host of the fleet has not loaded it. What is there stays
    good.
    """
    with context.works() as works:
        hosts = wait_for_hosts(works, lambda host: version in host.peppers, 0 if force else wait_s)
        use_pepper(works.connection, version, works.clock.now(), hosts, force=force)
    said({"version": version, "used": True}, f"Pepper {version} is used.", as_json)


@pepper.command("retire")
@click.argument("version", type=click.IntRange(1, 100))
@wait_option
@json_option
@pass_context
def pepper_retire(context: Context, version: int, wait_s: int, as_json: bool) -> None:
    """Hosts may be without this version from now on. Refused while something live was made under it, or a host makes more."""
    with context.works() as works:
        hosts = wait_for_hosts(works, lambda host: host.issues_under != version, wait_s)
        retire_pepper(works.connection, version, works.clock.now(), hosts)
    said({"version": version, "retired": True}, f"Pepper {version} is retired: its files may go.", as_json)


@click.group()
def session() -> None:
    """Who is signed in."""


@session.command("list")
@subscriber_option
@json_option
@pass_context
def session_list(context: Context, subscriber: str, as_json: bool) -> None:
    """A subscriber's live sessions, newest first."""
    with context.works() as works:
        found = works.identity.sessions(works.subscriptions.find(subscriber).subscriber_id)
    if as_json:
        print_json(found)
        return
    rows = [
        (one.session_id, f"{one.created_at:%Y-%m-%d %H:%M}", one.seen_address or "",
         f"{one.seen_at:%Y-%m-%d %H:%M}" if one.seen_at else "", one.client or "")
        for one in found
    ]  # fmt: skip
    print_table("Sessions", ["id", "since", "from", "seen last", "with"], rows)


@session.command("end")
@subscriber_option
@click.option("--session", "session_id", type=click.UUID, help="This one; left out: all of them.")
@json_option
@pass_context
def session_end(context: Context, subscriber: str, session_id: UUID | None, as_json: bool) -> None:
    """Sign a subscriber out."""
    with context.works() as works:
        found = works.subscriptions.find(subscriber)
        live = {one.session_id for one in works.identity.sessions(found.subscriber_id)}
        ended = sorted(live if session_id is None else live & {session_id})
        for one in ended:
            works.identity.end_session(one)
    said({"ended": ended}, f"{len(ended)} session(s) ended.", as_json)


GROUPS: Final = (staff, audit, approval, pepper, session)
