"""Reads LiteLLM: `config.yaml` of its proxy, and the tables of its database. Facts and their sources are in docs/IMPORT.md."""

import re
from typing import Final, NamedTuple

import yaml

from tokenworks.app.importing.model import (
    Foreign,
    ForeignDeployment,
    ForeignHolder,
    ForeignKey,
    ForeignLimits,
    LeftOut,
    Period,
    Row,
    Tables,
    count_of,
    decimal_of,
    deployment_name,
    flag_of,
    id_of,
    json_of,
    list_of,
    text_of,
    time_of,
)
from tokenworks.factory import profile_names
from tokenworks.kernel import Invalid

SYSTEM: Final = "litellm"
YAML_BYTES_MAX: Final = 2 * 1024 * 1024
ENTRIES_MAX: Final = 10_000
KEYS: Final = "LiteLLM_VerificationToken"
TEAMS: Final = "LiteLLM_TeamTable"
USERS: Final = "LiteLLM_UserTable"
BUDGETS: Final = "LiteLLM_BudgetTable"
TABLES: Final = (KEYS, TEAMS, USERS, BUDGETS)
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PERIODS: Final[dict[str, Period]] = {"1d": "day", "24h": "day", "30d": "month", "1mo": "month"}
_ENV: Final = "os.environ/"
# Parts of a row of a key that narrow it and that nothing here repeats: a key with one of them would be wider here.
_NARROWING: Final = (
    "allowed_routes", "access_group_ids", "object_permission_id", "policies", "organization_id", "project_id",
)  # fmt: skip


class Provider(NamedTuple):
    """Where LiteLLM sends the requests of a provider. No URL: the entry has to name one."""

    base_url: str | None
    profile: str
    protocols: tuple[str, ...] = ("chat",)


PROVIDERS: Final[dict[str, Provider]] = {
    "openai": Provider("https://api.openai.com/v1", "openai", ("chat", "responses")),
    "anthropic": Provider("https://api.anthropic.com", "anthropic", ("messages",)),
    "deepseek": Provider("https://api.deepseek.com", "deepseek"),
    "dashscope": Provider("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
    "moonshot": Provider("https://api.moonshot.ai/v1", "moonshot"),
    "zai": Provider("https://api.z.ai/api/paas/v4", "zhipu"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "generic"),
    "groq": Provider("https://api.groq.com/openai/v1", "generic"),
    "mistral": Provider("https://api.mistral.ai/v1", "generic"),
    "xai": Provider("https://api.x.ai/v1", "generic"),
    "volcengine": Provider("https://ark.cn-beijing.volces.com/api/v3", "generic"),
    "gemini": Provider("https://generativelanguage.googleapis.com/v1beta/openai", "generic"),
    "ollama": Provider("http://localhost:11434", "generic"),
    "ollama_chat": Provider("http://localhost:11434", "generic"),
    "hosted_vllm": Provider(None, "vllm"),
    "custom_openai": Provider(None, "generic"),
    "openai_like": Provider(None, "generic"),
}
_OWN_API: Final = {"azure", "azure_ai", "bedrock", "vertex_ai", "sagemaker", "watsonx", "cohere", "replicate"}
_MODES: Final = {"embedding": "embeddings", "completion": "completions", "responses": "responses"}
_PARAMS: Final = {
    "model", "api_base", "api_key", "custom_llm_provider", "litellm_credential_name", "rpm", "tpm", "max_parallel_requests", "base_url",
}  # fmt: skip


def read_config(data: bytes) -> Foreign:
    """Read a `config.yaml`. Raises `Invalid` if it is none, or larger than its limit."""
    if len(data) > YAML_BYTES_MAX:
        raise Invalid(f"a config.yaml has at most {YAML_BYTES_MAX} bytes, not {len(data)}")
    try:
        content = yaml.load(data, Loader=_LOADER)  # noqa: S506  (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise Invalid(f"this is no YAML{f' at line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model_list"), list):
        raise Invalid("this is no config.yaml of LiteLLM: it has no model_list")
    entries = content["model_list"]
    if len(entries) > ENTRIES_MAX:
        raise Invalid(f"a model_list has at most {ENTRIES_MAX} entries, not {len(entries)}")
    foreign = Foreign(SYSTEM)
    credentials = _credentials(content.get("credential_list"))
    seen: dict[tuple[object, ...], int] = {}
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            _model(foreign, entry, credentials, seen)
        else:
            foreign.findings.add("left_out", f"model_list entry {number}", "it is no mapping")
    _aliases(foreign, content.get("router_settings"))
    for section, value in content.items():
        if section not in {"model_list", "credential_list"} and isinstance(value, dict):
            _settings(foreign, str(section), value)
    return foreign


def _credentials(value: object) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for entry in value if isinstance(value, list) else ():
        values = entry.get("credential_values") if isinstance(entry, dict) else None
        name = entry.get("credential_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and isinstance(values, dict):
            found[name] = values
    return found


def _model(
    foreign: Foreign, entry: Row, credentials: dict[str, Row], seen: dict[tuple[object, ...], int]
) -> None:
    """Read one entry of `model_list`."""
    findings = foreign.findings
    name = text_of(entry, "model_name", 200)
    params, info = entry.get("litellm_params"), entry.get("model_info")
    info = info if isinstance(info, dict) else {}
    upstream = text_of(params, "model", 500) if isinstance(params, dict) else None
    if name is None or upstream is None or not isinstance(params, dict):
        findings.add(
            "left_out", name or "an entry of model_list", "it has no model_name or no litellm_params.model"
        )
        return
    what = f"deployment of {name} ({upstream})"
    values = dict(credentials.get(text_of(params, "litellm_credential_name") or "", {})) | params
    try:
        foreign.deployments.append(_deployment(name, upstream, values, info, seen))
    except LeftOut as error:
        findings.add("left_out", what, str(error))
        return
    for param in sorted(map(str, params.keys() - _PARAMS)):
        findings.add("left_out", f"{what}: {param}", _PARAM_REASONS.get(param, "no counterpart"))


def _deployment(
    name: str, upstream: str, values: Row, info: Row, seen: dict[tuple[object, ...], int]
) -> ForeignDeployment:
    """The deployment of one entry. `seen`: how many entries have the same model, name there and address. Raises `LeftOut`."""
    if "*" in name or "*" in upstream:
        raise LeftOut("a wildcard names no model: declare a deployment for each model")
    base = text_of(values, "api_base") or text_of(values, "base_url")
    provider, rest = _provider(upstream, text_of(values, "custom_llm_provider"), base)
    mode = text_of(info, "mode") or "chat"
    if mode not in _MODES and mode != "chat":
        raise LeftOut(f"requests of the mode {mode} are not served")
    url = base or provider.base_url
    if url is None:
        raise LeftOut("it has no api_base")
    if url.startswith(_ENV):
        raise LeftOut(f"its address is in the variable {url.removeprefix(_ENV)}: write it into the file")
    identity = (name, rest, url)
    seen[identity] = seen.get(identity, 0) + 1
    fields: dict[str, object] = {
        "model": name, "upstream_model": rest, "base_url": url, "kind": "vendor",
        "protocols": (_MODES[mode],) if mode in _MODES else provider.protocols,
        "profile": provider.profile if provider.profile in profile_names() else "generic",
    }  # fmt: skip
    for ours, theirs in (("max_output_tokens", "max_output_tokens"), ("context_tokens", "max_input_tokens")):
        count = count_of(info, theirs)
        fields |= {ours: count} if count else {}
    secret = text_of(values, "api_key")
    is_name = secret is not None and secret.startswith(_ENV)
    limits = ForeignLimits(
        count_of(values, "rpm") or None,
        count_of(values, "tpm") or None,
        count_of(values, "max_parallel_requests") or None,
    )
    return ForeignDeployment(
        deployment_name(SYSTEM, name, *identity, seen[identity]), fields, None if is_name else secret,
        secret.removeprefix(_ENV) if is_name and secret is not None else None, limits,
    )  # fmt: skip


def _provider(upstream: str, own: str | None, base: str | None) -> tuple[Provider, str]:
    """(the provider of an entry, the model's name there). Raises `LeftOut`."""
    name, _, rest = upstream.partition("/")
    if own is not None:
        name, rest = own, rest if name == own and rest else upstream
    elif not rest or name not in (PROVIDERS.keys() | _OWN_API):
        name, rest = _implied(upstream, base), upstream
    provider = PROVIDERS.get(name)
    if provider is None:
        reason = "its API is its own" if name in _OWN_API else "this provider is not known here"
        raise LeftOut(f"{reason}: if it speaks OpenAI's or Anthropic's protocol, use `deployment add`")
    return provider, rest


_PARAM_REASONS: Final = {
    "input_cost_per_token": "what is paid is set by `deployment set --price`, in yuan",
    "output_cost_per_token": "what is paid is set by `deployment set --price`, in yuan",
    "weight": "the gateway places by measured load",
    "order": "an order is a plan's or a key's fallback models",
}


def _implied(upstream: str, base: str | None) -> str:
    """The provider of a model without a known prefix, as LiteLLM's list of names has it."""
    if base is not None:
        return "custom_openai"
    if re.match(r"(gpt-|o[134](-|$)|chatgpt-|text-embedding-)", upstream):
        return "openai"
    return "anthropic" if upstream.startswith("claude-") else ""


def _aliases(foreign: Foreign, router: object) -> None:
    found = router.get("model_group_alias") if isinstance(router, dict) else None
    for alias, model in found.items() if isinstance(found, dict) else ():
        target = model.get("model") if isinstance(model, dict) else model
        if isinstance(alias, str) and isinstance(target, str) and len(foreign.aliases) < ENTRIES_MAX:
            foreign.aliases[alias] = target
        else:
            foreign.findings.add("left_out", f"alias {alias}", "it names no model")


_SECTION_REASONS: Final = {
    "fallbacks": "fallback models are set per key (`key fallback`) or in a plan",
    "master_key": "staff has tokens of its own: `staff add`",
    "environment_variables": "variables of the other system are not taken",
    "database_url": "the keys are read with --database",
}


def _settings(foreign: Foreign, section: str, value: Row) -> None:
    for name in sorted(map(str, value)):
        if (section, name) != ("router_settings", "model_group_alias"):
            reason = (
                _SECTION_REASONS.get(name)
                or _SECTION_REASONS.get(section)
                or "no counterpart: `config` lists our settings"
            )
            foreign.findings.add("left_out", f"{section}.{name}", reason)


class _Holders(NamedTuple):
    """Of teams and users, by ref: the models that each may use, and why the keys of some are left out."""

    models: dict[str, list[str]]
    shut: dict[str, str]


def read_tables(foreign: Foreign, tables: Tables) -> None:
    """Read teams, users and keys into `foreign`."""
    budgets = {id_of(row, "budget_id"): row for row in tables.get(BUDGETS, ())}
    holders = _Holders({}, {})
    for row in tables.get(TEAMS, ()):
        team = id_of(row, "team_id")
        if team is None:
            continue
        ref = f"team {team}"
        holders.models[ref] = list_of(row, "models")
        if flag_of(row, "blocked"):
            holders.shut[ref] = "its team is blocked"
        elif _narrowed(row):
            holders.shut[ref] = (
                f"{', '.join(_narrowed(row))} narrow its team, and have no counterpart: it would be wider here"
            )
        _holder(foreign, row, ref, text_of(row, "team_alias", 100) or ref[:60], True, None)
    for row in tables.get(USERS, ()):
        user = id_of(row, "user_id")
        if user is None:
            continue
        ref = f"user {user}"
        of = [f"team {team}" for team in list_of(row, "teams") if f"team {team}" in holders.models]
        holders.models[ref] = list_of(row, "models")
        if _narrowed(row):
            holders.shut[ref] = (
                f"{', '.join(_narrowed(row))} narrow its user, and have no counterpart: it would be wider here"
            )
        _holder(
            foreign,
            row,
            ref,
            text_of(row, "user_alias", 100) or ref[:60],
            False,
            of[0] if len(of) == 1 else None,
        )
    for row in tables.get(KEYS, ()):
        _key(foreign, row, budgets, holders)


def _narrowed(row: Row) -> list[str]:
    """The columns that narrow a row and have no counterpart."""
    narrowed = [column for column in _NARROWING if row.get(column) not in (None, [], "", "{}", "[]")]
    budgets = json_of(row, "model_max_budget")
    return narrowed if budgets in (None, {}, "") else [*narrowed, "model_max_budget"]


def _holder(foreign: Foreign, row: Row, ref: str, name: str, department: bool, parent: str | None) -> None:
    budget, duration = decimal_of(row, "max_budget"), text_of(row, "budget_duration")
    period: Period = "total"
    if budget is not None and duration is not None:
        period = _PERIODS.get(duration, "total")
        exact = duration in _PERIODS
        reason = (
            f"its budget is renewed every {duration}: here with the {period}"
            if exact
            else f"its budget is renewed every {duration}: here it is given once"
        )
        foreign.findings.add("approximated", ref, reason)
    elif budget is not None:
        budget = max(budget - (decimal_of(row, "spend") or 0), budget * 0)
    foreign.holders.append(ForeignHolder(ref, name, department, parent, budget, period, _limits(row)))


def _limits(row: Row) -> ForeignLimits:
    return ForeignLimits(
        count_of(row, "rpm_limit") or None,
        count_of(row, "tpm_limit") or None,
        count_of(row, "max_parallel_requests") or None,
    )


def _key(foreign: Foreign, row: Row, budgets: dict[str | None, dict[str, object]], holders: _Holders) -> None:
    """Read one key. What would be wider here than it is there is left out, with the reason."""
    token = (text_of(row, "token") or "").lower()
    name = text_of(row, "key_alias", 100) or text_of(row, "key_name", 100) or f"key {token[:8]}"
    what = f"key {name}"
    team, user = id_of(row, "team_id"), id_of(row, "user_id")
    ref = (
        f"team {team}"
        if team is not None
        else f"user {user}"
        if user not in {None, "default_user_id"}
        else None
    )
    narrowing = _narrowed(row)
    budget_row = budgets.get(id_of(row, "budget_id"))
    money = decimal_of(row, "max_budget")
    if money is None and budget_row is not None:
        money = decimal_of(budget_row, "max_budget")
    models, no_models = _models(list_of(row, "models"), holders.models.get(ref or "", []))
    reasons = (
        (not _SHA256.fullmatch(token), "its token is no SHA-256 in hexadecimal"),
        (flag_of(row, "blocked"), "it is blocked"),
        (ref is not None and ref not in holders.models, f"its {ref} is not among the tables"),
        (ref in holders.shut, holders.shut.get(ref or "", "")),
        (
            bool(narrowing),
            f"{', '.join(narrowing)} narrow it, and have no counterpart: it would be wider here",
        ),
        (no_models, "it allows no model that can be named"),
    )
    reason = next((text for wrong, text in reasons if wrong), None)
    if reason is not None:
        foreign.findings.add("left_out", what, reason)
        return
    expires = row.get("expires")
    expires_at = time_of(expires)
    if expires not in (None, "") and expires_at is None:
        foreign.findings.add("left_out", what, "its end can't be read")
        return
    if money is not None:
        money = max(money - (decimal_of(row, "spend") or 0), money * 0)
        if text_of(row, "budget_duration") or (budget_row and text_of(budget_row, "budget_duration")):
            foreign.findings.add(
                "approximated",
                what,
                "its budget is renewed there: a key's cap is given once, with what is left",
            )
    foreign.keys.append(ForeignKey(token[:12], name, token, ref, models, money, expires_at, _limits(row)))


def _models(own: list[str], holder: list[str]) -> tuple[tuple[str, ...] | None, bool]:
    """(the models that a key may use by its own list and by that of its team or user, or None for all; whether it may use none)."""
    allowed: list[str] | None = None
    for listed in (holder, [] if "all-team-models" in own else own):
        if listed and "all-proxy-models" not in listed:
            named = [
                model for model in dict.fromkeys(listed) if "*" not in model and model != "no-default-models"
            ]
            allowed = named if allowed is None else [model for model in allowed if model in named]
    return (None, False) if allowed is None else (tuple(allowed), not allowed)
