"""Reads one-api and new-api: their tables `channels`, `users` and `tokens`. Facts and their sources are in docs/IMPORT.md."""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from tokenworks.app.importing.model import (
    Foreign,
    ForeignDeployment,
    ForeignHolder,
    ForeignKey,
    Row,
    Tables,
    count_of,
    decimal_of,
    deployment_name,
    flag_of,
    id_of,
    json_of,
    text_of,
    time_of,
)
from tokenworks.factory import profile_names
from tokenworks.trust import foreign_sha256

System = Literal["one-api", "new-api"]
TABLES: Final = ("channels", "users", "tokens")
QUOTA_PER_USD: Final = 500_000
ENABLED: Final = 1
# Models and keys of one channel; each pair is a deployment.
MODELS_MAX: Final = 500
CHANNEL_KEYS_MAX: Final = 50


class Channel(NamedTuple):
    """Where a type of channel sends its requests: the default address, and the path that is put behind any address."""

    base_url: str | None
    path: str = ""
    profile: str = "generic"
    protocols: tuple[str, ...] = ("chat",)


_OPENAI: Final = Channel("https://api.openai.com", "", "openai", ("chat", "responses", "embeddings"))
_SHARED: Final[dict[int, Channel]] = {
    1: _OPENAI,
    8: Channel(None),
    14: Channel("https://api.anthropic.com", "", "anthropic", ("messages",)),
    17: Channel("https://dashscope.aliyuncs.com", "/compatible-mode/v1", "dashscope"),
    20: Channel("https://openrouter.ai/api"),
    24: Channel("https://generativelanguage.googleapis.com", "/v1beta/openai"),
    25: Channel("https://api.moonshot.cn", "", "moonshot"),
    31: Channel("https://api.lingyiwanwu.com"),
}
# The numbers of the two systems part after 25.
CHANNELS: Final[Mapping[System, Mapping[int, Channel]]] = MappingProxyType(
    {
        "one-api": _SHARED
        | {
            26: Channel("https://api.baichuan-ai.com"),
            27: Channel("https://api.minimax.chat"),
            28: Channel("https://api.mistral.ai"),
            29: Channel("https://api.groq.com/openai"),
            30: Channel("http://localhost:11434"),
            32: Channel("https://api.stepfun.com"),
            36: Channel("https://api.deepseek.com", "", "deepseek"),
            39: Channel("https://api.together.xyz"),
            40: Channel("https://ark.cn-beijing.volces.com", "/api/v3"),
        },
        "new-api": _SHARED
        | {
            4: Channel("http://localhost:11434"),
            26: Channel("https://open.bigmodel.cn", "/api/paas/v4", "zhipu"),
            35: Channel("https://api.minimax.chat"),
            40: Channel("https://api.siliconflow.cn"),
            42: Channel("https://api.mistral.ai"),
            43: Channel("https://api.deepseek.com", "", "deepseek"),
            45: Channel("https://ark.cn-beijing.volces.com", "/api/v3"),
            46: Channel("https://qianfan.baidubce.com", "/v2"),
            47: Channel(None),
            48: Channel("https://api.x.ai"),
        },
    }
)
_CHANNEL_LEFT: Final = {
    "status_code_mapping": "status codes are read by profiles", "param_override": "no counterpart", "header_override": "no counterpart",
    "openai_organization": "no counterpart", "setting": "no counterpart", "settings": "no counterpart",
}  # fmt: skip
_EMPTY: Final = (None, "", "{}", "null", "[]")


def read_tables(system: System, tables: Tables) -> Foreign:
    """Read channels, users and tokens."""
    foreign = Foreign(system)
    for row in tables.get("channels", ()):
        _channel(foreign, system, row)
    for row in tables.get("users", ()):
        _user(foreign, row)
    holders = {holder.ref for holder in foreign.holders}
    for row in tables.get("tokens", ()):
        _token(foreign, row, holders)
    return foreign


def _channel(foreign: Foreign, system: System, row: Row) -> None:
    """Read one channel: a deployment for each of its models and keys."""
    findings, number = foreign.findings, count_of(row, "type")
    id_, name = id_of(row, "id") or "", text_of(row, "name", 100) or ""
    what = f"channel {id_} {name}".strip()
    channel = CHANNELS[system].get(-1 if number is None else number)
    if channel is None:
        findings.add(
            "left_out", what, f"channels of the type {number} have an API of their own, or are not known here"
        )
        return
    url = text_of(row, "base_url", 400) or channel.base_url
    if url is None:
        findings.add("left_out", what, "it has no base_url")
        return
    url = url.rstrip("/")
    if channel.path and not urlsplit(url).path:
        url += channel.path
    models = [
        model
        for model in (part.strip() for part in (text_of(row, "models", 100_000) or "").split(","))
        if model
    ]
    keys = [
        key for key in (line.strip() for line in (text_of(row, "key", 100_000) or "").splitlines()) if key
    ]
    if len(models) > MODELS_MAX or len(keys) > CHANNEL_KEYS_MAX:
        findings.add(
            "left_out",
            what,
            f"it has {len(models)} models and {len(keys)} keys: at most {MODELS_MAX} and {CHANNEL_KEYS_MAX} are read",
        )
        return
    if not models:
        findings.add("left_out", what, "it names no model")
    mapping = json_of(row, "model_mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    draining = count_of(row, "status") != ENABLED
    if draining:
        findings.add(
            "approximated",
            what,
            "it is disabled there: its deployments are draining (`deployment resume` starts them)",
        )
    if len(keys) > 1:
        findings.add("approximated", what, f"its {len(keys)} keys are as many deployments")
    for model in models:
        target = mapping.get(model)
        upstream = target if isinstance(target, str) and target else model
        for at, key in enumerate(keys or [""]):
            fields: dict[str, object] = {
                "model": model, "upstream_model": upstream, "base_url": url, "protocols": channel.protocols, "kind": "vendor",
                "profile": channel.profile if channel.profile in profile_names() else "generic",
            }  # fmt: skip
            foreign.deployments.append(
                ForeignDeployment(
                    deployment_name(system, model, id_, model, at), fields, key or None, draining=draining
                )
            )
    for column, reason in _CHANNEL_LEFT.items():
        if row.get(column) not in _EMPTY:
            findings.add("left_out", f"{what}: {column}", reason)
    for column in ("priority", "weight"):
        if count_of(row, column):
            findings.add("left_out", f"{what}: {column}", "the gateway places by measured load and price")


def _usd(row: Row, name: str) -> Decimal:
    """A quota in dollars: what is left of it, not less than nothing."""
    return max((decimal_of(row, name) or Decimal(0)) / QUOTA_PER_USD, Decimal(0))


def _user(foreign: Foreign, row: Row) -> None:
    id_ = id_of(row, "id")
    if id_ is None:
        return
    what = f"user {id_}"
    if count_of(row, "status") != ENABLED or row.get("deleted_at") not in (None, ""):
        foreign.findings.add("left_out", what, "it is disabled or deleted")
        return
    name = text_of(row, "display_name", 100) or text_of(row, "username", 100) or what
    foreign.holders.append(ForeignHolder(what, name, False, None, _usd(row, "quota")))
    if text_of(row, "group") not in (None, "default"):
        foreign.findings.add(
            "approximated",
            what,
            "its group's price ratio and channels are not kept: our plans have prices, and a key its models",
        )


def _token(foreign: Foreign, row: Row, holders: set[str]) -> None:
    """Read one token. What would be wider here than it is there is left out, with the reason."""
    id_, key = id_of(row, "id") or "", (text_of(row, "key", 128) or "").removeprefix("sk-")
    name = text_of(row, "name", 100) or f"token {id_}"
    what, holder = f"key {name}", f"user {id_of(row, 'user_id')}"
    ends = count_of(row, "expired_time")
    forever = decimal_of(row, "expired_time") == -1
    models = tuple(
        part.strip()
        for part in (text_of(row, "model_limits", 20_000) or text_of(row, "models", 20_000) or "").split(",")
        if part.strip()
    )
    limited = flag_of(row, "model_limits_enabled") or row.get("models") not in _EMPTY
    addresses = next((column for column in ("allow_ips", "subnet") if row.get(column) not in _EMPTY), None)
    reasons = (
        (len(key) < 20 or not key.isalnum(), "its key is empty, too short or no key"),
        (
            count_of(row, "status") != ENABLED or row.get("deleted_at") not in (None, ""),
            "it is disabled, expired, used up or deleted",
        ),
        (holder not in holders, f"its {holder} is left out"),
        (
            addresses is not None,
            "it is limited to addresses, which has no counterpart: it would be wider here",
        ),
        (limited and not models, "it allows no model that can be named"),
        (ends is None and not forever, "its end can't be read"),
    )
    reason = next((text for wrong, text in reasons if wrong), None)
    if reason is not None:
        foreign.findings.add("left_out", what, reason)
        return
    usd = None if flag_of(row, "unlimited_quota") else _usd(row, "remain_quota")
    foreign.keys.append(
        ForeignKey(
            id_, name, foreign_sha256(f"sk-{key}"), holder, models if limited else None, usd, None if forever else time_of(ends)
        )
    )  # fmt: skip
    if text_of(row, "group") not in (None, "default"):
        foreign.findings.add("approximated", what, "its group's price ratio and channels are not kept")
