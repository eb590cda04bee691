"""The code of every refusal of the data plane: its status, its meaning, and what the client can do. The reference lists them."""

from typing import Final, NamedTuple


class Code(NamedTuple):
    """One code. `zh`: the sentence in Chinese, for codes about the account or its key. A refusal with more detail (the balance, the time
    of a reset) has its own message in both languages.
    """

    status: str
    happened: str
    todo: str
    zh: str = ""


_AGAIN: Final = "send it again; Retry-After says when"
_BODY: Final = "change the request"
_OPERATOR: Final = "tell the operator, with the request id"

CODES: Final[dict[str, Code]] = {
    # The request.
    "bad_request": Code("400", "not HTTP/1.1 as we take it, or not JSON", "send what the protocol says"),
    "ambiguous_path": Code("400", "a path with dot segments, encoded separators outside a model's id, or // that leads to no route", "send the route's plain path"),
    "invalid_body": Code("400", "the body lacks what the protocol needs, or has it in a wrong type", _BODY),
    "unpriced_field": Code("400", "a field that would move price or upstream state and is not priced here", "leave the field out"),
    "context_length_exceeded": Code("400", "what the request brings and asks for is more than the model's context; the message is its server's, cleaned", "shorten the input, or ask for fewer tokens"),
    "unsupported_input": Code("400", "the request brings what the model does not take: images, sound, tools", "ask another model, or leave it out"),
    "forbidden_link": Code("400", "a URL of media that no upstream may fetch: not a public address, or not http, https or data", "send the content itself, or a public link"),
    "foreign_object": Code("400", "an upstream object that this account did not receive", "name an object of this account's"),
    "content_policy_violation": Code("400 or 403", "a content policy of the model's server refuses what the request brings; the message is its own, cleaned", _BODY),
    "refused_by_model": Code("400, 413 or 422", "the model's server refuses the request for what is in it; the message is its own, cleaned", _BODY),
    "not_found": Code("404", "no such route", "use the route that the message names"),
    "model_not_found": Code("404", "no deployment serves this model in this protocol", "GET /v1/models lists the models"),
    "method_not_allowed": Code("405", "the route does not take this method", "use the method that the message names"),
    "request_timeout": Code("408", "the request did not arrive in time", "send it again, faster"),
    "body_too_large": Code("413", "the body is larger than body_bytes_max", "send less"),
    "unsupported_encoding": Code("415", "a body in another content coding than gzip, deflate, br or zstd, or in more than two", "send it in one of these, or as it is"),
    "expectation_failed": Code("417", "an Expect header other than 100-continue", "leave it out"),
    "upgrade_required": Code("426", "an offer of WebSocket", "send the same request over HTTP"),
    "headers_too_large": Code("431", "more than header_bytes_max or header_count_max", "send fewer headers"),
    "http_version": Code("505", "another version than HTTP/1.0 or 1.1", "speak HTTP/1.1"),
    # The key and the account.
    "invalid_api_key": Code("401", "no key, a typo, or a key that was never issued here", "check the key: all of it, and of this works",
        "API 密钥无效：请检查密钥是否完整、是否为本平台签发。"),
    "key_revoked": Code("401", "the key was revoked: by its owner, by the operator, or since its member was removed from the account", "use another key, or ask the account's owner for one",
        "该 API 密钥已被撤销：请使用其他密钥，或向账户所有者申请新密钥。"),
    "key_expired": Code("401", "the key's own last day is over", "make a new key, or ask the account's owner for one",
        "该 API 密钥已过期：请创建新密钥，或向账户所有者申请。"),
    "origin_not_allowed": Code("403", "a page of this origin may not use the key", "add the origin to the key, or use another key",
        "该密钥不允许在此网页来源使用：请为密钥添加该来源，或换用其他密钥。"),
    "model_not_allowed": Code("403", "this key may not use the model", "use another model, or a key that may",
        "该密钥无权使用此模型：请换用其他模型，或使用有权限的密钥。"),
    "account_suspended": Code("403", "the subscriber is suspended; the message says by what", "as the message says: pay, go on, or ask support. The key is good",
        "账户已暂停服务：密钥本身有效，请按提示缴费、恢复或联系客服。"),
    "account_closed": Code("403", "the account is closed: nothing is served or charged any more", "use a key of another account, or ask support",
        "账户已销户，不再提供服务，也不再计费：请使用其他账户的密钥，或联系客服。"),
    "consent_missing": Code("403", "the account has withdrawn its consent to the terms, or has not given it", "agree on the account's privacy page",
        "账户尚未同意或已撤回服务条款：请在“隐私与个人信息”页重新同意。"),
    "residency": Code("403", "the account's data may not go where the model is served", "use another model, or agree to the transfer on the privacy page",
        "账户数据不得传输至该模型所在地区：请换用其他模型，或在“隐私与个人信息”页同意传输。"),
    "model_not_filed": Code("403", "the model is not declared as filed, and filing_required is set", "use another model",
        "该模型尚未登记备案，暂不可用：请换用其他模型。"),
    "nothing_left": Code("402", "what the account (or the key's cap) has left does not cover the request", "order a plan or a top-up, raise the cap, or ask for fewer tokens",
        "余额不足以完成本次请求：请订购套餐或加油包，或减少请求的词元数。"),
    "allowance_used_up": Code("429", "what the plan allows in any 5 hours or week is used up", "wait; Retry-After says when the next comes back",
        "套餐在当前时段内的用量已用完：请稍后再试。"),
    "rate_limited": Code("429", "over a protective limit of the key, member, subscriber or deployments", "send it again; Retry-After says when there is room",
        "请求过于频繁，已达到限额：请稍后再试。"),
    # The server.
    "too_many_requests": Code("429", "over the admission limit, or over an address's share of memory_bytes_max", _AGAIN),
    "upstream_error": Code("502", "every deployment that was tried failed", f"send it again; where it stays so, {_OPERATOR}"),
    "overloaded": Code("503", "all deployments of the model are at their limits, and none came free in time, or too many wait", _AGAIN),
    "no_deployment": Code("503", "no deployment can take the request now", _AGAIN),
    "memory_full": Code("503", "the worker has all the bytes in flight that memory_bytes_max allows", _AGAIN),
    "journal_full": Code("503", "the disk of the host's journal is nearly full, or too much of it waits for the database; nothing new is begun", f"{_AGAIN}: another host may take it"),
    "recorder_away": Code("503", "the host's recorder does not answer", _AGAIN),
    "database_away": Code("503", "the database does not answer, and nothing is left that was granted", _AGAIN),
    "pepper_missing": Code("503", "the host lacks a pepper of the works, so it can't tell whether the key is good", f"{_AGAIN}: another host can. The operator copies the file (runbook: Another pepper)"),
    "shutting_down": Code("503", "this worker ends, and its time to drain is over", "send it again: another one takes it at once"),
    "clock_skew": Code("503", "the host's clock is off by more than clock_skew_max_s; nothing new is begun", f"{_AGAIN}: another host may take it"),
    "granted_elsewhere": Code("503", "another worker or host holds what would cover the request", "send it again at once"),
    "upstream_timeout": Code("504", "the deployment did not answer in time", "send it again, or ask for less"),
}  # fmt: skip


__all__ = ["CODES", "Code"]
