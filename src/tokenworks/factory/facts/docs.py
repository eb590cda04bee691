"""Writes docs/VENDORS.md from the profiles: `python -m tokenworks.factory.facts.docs > docs/VENDORS.md`. A test fails if the file differs.

The texts of `tokenworks vendor` are made here as well.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from tokenworks.factory.facts.profiles import GENERIC, BaseUrl, Profile, load_profile, profile_names

_HEAD: Final = """# Vendors and engines

Written from `src/tokenworks/factory/vendors/*.yaml` by `python -m tokenworks.factory.facts.docs`; do not edit it here.

A profile says how a vendor or an engine is called, what it accepts and what it reports. A fact that is not here is not known. A new
vendor is a new file.

```text
tokenworks vendor list
tokenworks vendor show deepseek
tokenworks deployment add --vendor deepseek --model deepseek-chat --show
tokenworks deployment add --vendor deepseek --model deepseek-chat
```

The last command takes everything but the credential from the profile and from the catalogue of models ([MODELS.md](MODELS.md)): name, base
URL, protocols, the vendor's name of the model, context, output maximum, price. `--show` prints each value and where it is from, and declares nothing. Every value can be
given as an option instead. `--region` chooses among the vendor's base URLs (`cn`, `intl`); `--plan` chooses those of a plan. Where a base URL
has a part in braces, give yours with `--base-url`.

**Credentials.** Without `--credential` a deployment at one of the vendor's base URLs names `env:TOKENWORKS_UPSTREAM_<VENDOR>` if that variable is set, else the file
`<vendor>` in `secrets_dir`. A file that changes is used within seconds by every worker, and at once by a worker to which the vendor says 401
or 403; a file that can't be read for a moment keeps its old content for 2 s. `--credential` may be repeated: the credentials share the load of
the deployment, in turn, and the less the vendor says is left of one's limits (`x-ratelimit-remaining-*`), the fewer requests it gets. One that the
vendor refuses (401, 403: a minute), whose rate is exceeded or whose quota is used up (the time that the vendor names, else 5 s and 5 minutes) rests
by itself; the others go on, and the request is tried again with one of them. A deployment with several credentials can't be read by
releases before this one.

**Paths and headers.** Where one host speaks several protocols at several base URLs (DeepSeek at `/anthropic`, DashScope at
`/apps/anthropic`), one deployment has all of them. A base URL that the profile does not have is taken as it is.

**Errors.** Codes are read by their words; those that are numbers, by the profile's table. [METERING.md](METERING.md) says what each kind
leads to. **Usage** is read by names that all vendors share; the examples of each profile are tests.
"""


def auth_text(profile: Profile) -> str:
    """How a credential is sent, in a line."""
    auth = profile.auth
    if auth is None:
        return "authorization: Bearer KEY (messages: x-api-key as well)"
    return _auth(auth)


def _auth(auth: dict[str, str]) -> str:
    if not auth:
        return "none needed"
    return ", ".join(f"{name}: {template.replace('{key}', 'KEY')}" for name, template in auth.items())


def facts_text(profile: Profile) -> Iterator[tuple[str, str]]:
    """(fact, its value) of a profile, without base URLs and sources; only what is known."""
    yield "credential", auth_text(profile)
    usage, errors, headers = profile.usage, profile.errors, profile.headers
    for fact, value in (
        ("output maximum", ", ".join(f"{protocol}: {field}" for protocol, field in profile.max_tokens_field.items())),
        ("usage in streams", _words(usage.include_usage and f"include_usage {usage.include_usage}", usage.where)),
        ("cached tokens", ", ".join(usage.cached)),
        ("cache writes", ", ".join(usage.cache_write)),
        ("reasoning tokens", ", ".join(usage.reasoning) + (" (beside the completion)" if usage.reasoning_beside else "")),
        ("reasoning switch", "" if profile.reasoning_switch == "none" else profile.reasoning_switch),
        ("reasoning is hidden", "yes" if profile.hides_reasoning else ""),
        ("model's name", f"{profile.model_prefix}NAME" if profile.model_prefix else ""),
        ("further fields", "; ".join(_fields(profile))),
        ("refused fields", "; ".join(f"{protocol}: {', '.join(names)}" for protocol, names in profile.refused.items())),
        ("shape of errors", errors.shape or ""),
        ("codes", "; ".join(_codes(profile))),
        ("headers of limits", ", ".join(headers.rate_limit)),
        ("header of retries", headers.retry or ""),
        ("header of the request's id", headers.request_id or ""),
        ("notes", "; ".join(profile.notes)),
    ):  # fmt: skip
        if value:
            yield fact, value


def _words(*words: str | None) -> str:
    return ", ".join(word.replace("_", " ") if word else "" for word in words if word)


def _fields(profile: Profile) -> Iterator[str]:
    for protocol, levels in profile.fields.items():
        names: set[str] = set()
        for rules in levels.get("body", {}).values():
            names |= set(rules) if isinstance(rules, dict | list) else set()
        if names:
            yield f"{protocol}: {', '.join(sorted(names))}"


def _codes(profile: Profile) -> Iterator[str]:
    of_kind: dict[str, list[str]] = {}
    for code, kind in profile.errors.codes.items():
        of_kind.setdefault(kind, []).append(code)
    for named, codes in of_kind.items():
        yield f"{named} {', '.join(codes)}"


def reference() -> str:
    """The text of docs/VENDORS.md."""
    named = [load_profile(name) for name in profile_names() if name != GENERIC]
    lines = [_HEAD, "## All", ""]
    lines += ["| vendor | name | kind | regions | protocols |", "|---|---|---|---|---|"]
    lines += [
        f"| [{p.profile}](#{_anchor(p.profile)}) | {p.title} | {p.kind} | {', '.join(p.regions)} | "
        f"{', '.join(dict.fromkeys(protocol for base in p.base_urls for protocol in base.protocols))} |"
        for p in named
    ]
    for profile in named:
        lines += ["", f"## {profile.profile}", "", f"{profile.title}.", ""]
        lines += ["| base URL | region | plan | protocols | paths and headers of its own |", "|---|---|---|---|---|"]  # fmt: skip
        lines += [_base(base) for base in profile.base_urls]
        lines += ["", "| fact | value |", "|---|---|"]
        lines += [f"| {fact} | {_cell(value)} |" for fact, value in facts_text(profile)]
        lines += ["", f"Sources: {_sources(profile)}."]
    return "\n".join(lines) + "\n"


def _anchor(name: str) -> str:
    return name.replace(".", "")


def _base(base: BaseUrl) -> str:
    own: Iterable[str] = (f"{endpoint}: `{path or '(none)'}`" for endpoint, path in base.paths.items())
    headers = [] if base.auth is None else [_auth(base.auth)]
    return f"| `{base.url}` | {base.region} | {base.plan or ''} | {', '.join(base.protocols)} | {', '.join([*own, *headers])} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _sources(profile: Profile) -> str:
    return "; ".join(_cell(f"{source.source} ({source.date})") for source in profile.sources)


if __name__ == "__main__":
    print(reference(), end="")
