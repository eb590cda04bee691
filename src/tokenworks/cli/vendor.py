"""`tokenworks vendor`: the vendors and engines whose profiles are shipped."""

import click

from tokenworks.app.output import print_json, print_table
from tokenworks.cli.base import json_option
from tokenworks.factory import Profile, load_profile, profile_names, vendor_profile
from tokenworks.factory.facts.docs import auth_text, facts_text

_GENERIC = "generic"


@click.command("list")
@json_option
def vendor_list(as_json: bool) -> None:
    """The vendors and engines whose profiles are shipped."""
    found = [load_profile(name) for name in profile_names() if name != _GENERIC]
    if as_json:
        print_json([_content(profile) for profile in found])
        return
    print_table(
        "Vendors and engines",
        ["vendor", "name", "kind", "regions", "protocols", "credential"],
        [
            (
                p.profile,
                p.title,
                p.kind,
                ", ".join(p.regions),
                ", ".join(dict.fromkeys(protocol for base in p.base_urls for protocol in base.protocols)),
                auth_text(p),
            )
            for p in found
        ],
    )


@click.command("show")
@click.argument("name")
@json_option
def vendor_show(name: str, as_json: bool) -> None:
    """What is known of a vendor's API, with the sources."""
    profile = vendor_profile(name)
    if as_json:
        print_json(_content(profile))
        return
    print_table(
        f"Base URLs of {profile.title}",
        ["base URL", "region", "plan", "protocols"],
        [(base.url, base.region, base.plan or "", ", ".join(base.protocols)) for base in profile.base_urls],
    )
    print_table(profile.title, ["fact", "value"], list(facts_text(profile)))
    print_table("Sources", ["source", "date"], [(source.source, source.date) for source in profile.sources])


def _content(profile: Profile) -> dict[str, object]:
    return profile.model_dump(mode="json", exclude_defaults=True)
