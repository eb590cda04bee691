"""`tokenworks pepper`: versions of the pepper, and the hosts that have loaded them."""

import click

from tokenworks.app.bootstrap import AppServices
from tokenworks.app.output import print_json, print_table
from tokenworks.app.process.host_secrets import fleet, wait_for_hosts
from tokenworks.cli.base import Context, json_option, pass_context, print_result, wait_option
from tokenworks.cli.trail import Params, audited


def _day(at: object) -> str:
    return "" if at is None else f"{at:%Y-%m-%d}"


def _peppers_now(services: AppServices, _params: Params) -> object:
    return [
        {"version": row.version, "used_since": row.used_since, "retired_at": row.retired_at}
        for row in services.peppers.all()
    ]


@click.command("list")
@json_option
@pass_context
def pepper_list(context: Context, as_json: bool) -> None:
    """The versions by fingerprint, the version in use, and the versions that each host of the fleet has loaded."""
    with context.services() as services:
        found, hosts = services.peppers.all(), fleet(services)
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


@click.command("new")
@audited(_peppers_now)
@json_option
@pass_context
def pepper_new(context: Context, as_json: bool) -> None:
    """Make the next version on this host. It is not used yet: copy the file to all hosts, then `pepper use`."""
    secrets = context.settings().secrets
    with context.services() as services:
        version = services.peppers.make(secrets)
    text = (
        f"{secrets}/pepper-{version}: copy it to the secrets of every host, mode 600, then `tokenworks pepper use {version}`. "
        "Hosts that serve take it within seconds; `tokenworks pepper list` shows which have."
    )
    print_result({"version": version, "path": secrets / f"pepper-{version}"}, text, as_json)


@click.command("use")
@audited(_peppers_now)
@click.argument("version", type=click.IntRange(1, 100))
@wait_option
@click.option("--force", is_flag=True, help="Even if a host has not loaded it, because that host is gone. A host that comes back without the file does not serve.")  # fmt: skip
@json_option
@pass_context
def pepper_use(context: Context, version: int, wait_s: int, force: bool, as_json: bool) -> None:
    """Use a version for all new keys, sessions and tokens. Refused while a host of the fleet has not loaded it. What is there stays
    good.
    """
    with context.services() as services:
        hosts = wait_for_hosts(services, lambda host: version in host.peppers, 0 if force else wait_s)
        services.peppers.use(version, hosts, force=force)
    print_result({"version": version, "used": True}, f"Pepper {version} is used.", as_json)


@click.command("retire")
@audited(_peppers_now)
@click.argument("version", type=click.IntRange(1, 100))
@wait_option
@json_option
@pass_context
def pepper_retire(context: Context, version: int, wait_s: int, as_json: bool) -> None:
    """Retire a version: hosts may be without it from now on. Refused while something live was made under it, or a host makes more."""
    with context.services() as services:
        hosts = wait_for_hosts(services, lambda host: host.issues_under != version, wait_s)
        services.peppers.retire(version, hosts)
    print_result(
        {"version": version, "retired": True}, f"Pepper {version} is retired: its files may go.", as_json
    )
