"""What a deployment at a vendor is by default, by the vendor's profile. Context, output maximum and price come from the catalogue of
models (`KnownModels.figures_for`).

Each default has its origin, so that an operator sees what is taken before it is used.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tokenworks.factory.errors import CredentialMissing, DeploymentInvalid
from tokenworks.factory.facts.endpoints import base_url_of, is_address_of
from tokenworks.factory.facts.model_facts import ModelFacts, model_facts, upstream_id
from tokenworks.factory.facts.profiles import BaseUrl, Profile, load_profile, profile_names
from tokenworks.factory.model import ENV_PREFIX, Deployment, Protocol
from tokenworks.factory.placing.request import is_within

# The regions of base URLs that serve the whole world, and of engines, which are wherever the operator runs them.
GLOBAL: Final = "global"
LOCAL: Final = "local"
_NAME_CHARS_MAX: Final = 63
# The protocols that every model of a vendor speaks; a model of embeddings speaks that one alone.
_CONVERSING: Final[tuple[Protocol, ...]] = ("chat", "responses", "messages")


class Default(NamedTuple):
    """A field's value, and where it is from, in words."""

    value: object
    origin: str


def vendor_profile(vendor: str) -> Profile:
    """The profile of a vendor. Raises `DeploymentInvalid` with the nearest name."""
    if vendor in profile_names():
        return load_profile(vendor)
    known = [name for name in profile_names() if vendor.lower() in load_profile(name).names]
    hint = f"is it {' or '.join(known)}? " if known else ""
    raise DeploymentInvalid(
        f"there is no vendor {vendor}: {hint}`tokenworks vendor list` shows them; any other server needs --base-url"
    )


def vendor_defaults(
    profile: Profile, model: str, *, region: str | None = None, base_url: str | None = None, plan: str | None = None
) -> dict[str, Default]:  # fmt: skip
    """The fields of a deployment of a vendor's model. Protocols are left out where they have to be probed: at an engine, and at a base
    URL that the profile does not have. Raises `DeploymentInvalid`.
    """
    of_profile = f"profile {profile.profile}"
    facts = model_facts(profile.profile, model)
    found: dict[str, Default] = {
        "name": Default(_name(f"{profile.profile}-{model}"), "vendor and model"),
        "model": Default(model, "given"),
        "upstream_model": _upstream_model(profile, model, facts),
        "profile": Default(profile.profile, "vendor"),
    }
    if profile.kind != "engine":
        found["vendor"] = Default(profile.profile, "vendor")
        found["kind"] = Default("vendor", of_profile)
    if base_url is None:
        base: BaseUrl | None = _choose(profile, region, plan)
        assert base is not None
        found["base_url"] = Default(base.url, f"{of_profile}, {_where(base)}")
    else:
        base = _base_of(profile, base_url)
        found["base_url"] = Default(base_url, "given")
    if region is not None:
        found["region"] = Default(region, "given")
    elif base is not None and profile.kind != "engine" and base.region != GLOBAL:
        found["region"] = Default(base.region, of_profile)
    if base is not None and profile.kind != "engine":
        found["protocols"] = Default(_protocols(profile, base, model), of_profile)
    if profile.hides_reasoning and facts is not None and facts.reasoning:
        found["hides_reasoning"] = Default(value=True, origin=of_profile)
    return found


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:_NAME_CHARS_MAX]


def _upstream_model(profile: Profile, model: str, facts: ModelFacts | None) -> Default:
    """The vendor's name of the model: as the catalogue of models has it, else the model's own, after the vendor's prefix."""
    if facts is not None and profile.profile in facts.vendor_ids:
        return Default(upstream_id(facts, profile.profile), "catalogue of models")
    prefix = profile.model_prefix
    if not prefix or "/" in model:
        return Default(model, "the model's name")
    return Default(prefix + model, f"profile {profile.profile}")


def _where(base: BaseUrl) -> str:
    return f"region {base.region}" + ("" if base.plan is None else f", plan {base.plan}")


def _choose(profile: Profile, region: str | None, plan: str | None) -> BaseUrl:
    """The first base URL of the region and the plan; one that serves the whole world serves every region."""
    of_plan = [base for base in profile.base_urls if base.plan == plan]
    if plan is not None and not of_plan:
        plans = sorted({base.plan for base in profile.base_urls if base.plan is not None})
        raise DeploymentInvalid(f"{profile.profile} has no plan {plan}: it has {', '.join(plans) or 'none'}")
    fitting = of_plan
    if region is not None:
        fitting = [base for base in of_plan if is_within(region, base.region)] or [
            base for base in of_plan if base.region in {GLOBAL, LOCAL}
        ]
    if not fitting:
        regions = ", ".join(dict.fromkeys(base.region for base in of_plan))
        raise DeploymentInvalid(
            f"{profile.profile} has no base URL in {region}: "
            + (f"it has {regions}" if regions else "give yours with --base-url")
        )
    ready = [base for base in fitting if not base.is_template] or fitting
    # The narrowest region counts; `max` takes the first of several.
    base = ready[0] if region is None else max(ready, key=lambda found: len(found.region))
    if base.is_template:
        raise DeploymentInvalid(
            f"{profile.profile} serves at {base.url}, of which you know the rest: give it with --base-url"
        )
    return base


def _base_of(profile: Profile, base_url: str) -> BaseUrl | None:
    """The profile's base URL of one that the operator gave. Raises nothing: what is no URL is refused with the deployment."""
    asked = Deployment.model_construct(base_url=base_url.rstrip("/"))
    return base_url_of(asked, profile)


def _protocols(profile: Profile, base: BaseUrl, model: str) -> tuple[Protocol, ...]:
    """The protocols of a base URL, and of the others of its host, region and plan, where they have paths of their own."""
    host = base.url.split("/")[2]
    spoken = set(base.protocols)
    for other in profile.base_urls:
        if other.url.split("/")[2] == host and (other.region, other.plan) == (base.region, base.plan):
            spoken |= set(other.protocols)
    if "embed" in model.lower() and "embeddings" in spoken:
        return ("embeddings",)
    conversing = tuple(protocol for protocol in _CONVERSING if protocol in spoken)
    return conversing or tuple(sorted(spoken))


def credential_default(
    profile: Profile, secrets_dir: Path, environ: Mapping[str, str], base_url: str | None = None
) -> Default | None:
    """The reference of a vendor's credential: the variable of its name if it is set, else the file of its name; None if the profile
    needs none, or if `base_url` is no address of the vendor's, which is not sent the vendor's credential unless the operator says so.
    Raises `CredentialMissing`, which names both.
    """
    if base_url is not None and not is_address_of(profile, base_url):
        return None
    variable = ENV_PREFIX + re.sub(r"[^A-Z0-9]", "_", profile.profile.upper())
    if environ.get(variable):
        return Default(f"env:{variable}", "it is set")
    if (secrets_dir / profile.profile).exists():
        return Default(f"file:{profile.profile}", "it is in secrets_dir")
    if profile.kind == "engine":
        return None
    raise CredentialMissing(
        f"{profile.title} needs a credential: set {variable} in the server's environment, or write the credential into "
        f"{secrets_dir / profile.profile}, mode 600; --credential names another place"
    )
