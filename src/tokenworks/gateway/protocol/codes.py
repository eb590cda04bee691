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
    "bad_request": Code("400", "the request is not valid HTTP/1.1, or its body is not JSON", "send a request as the protocol defines it"),
    "ambiguous_path": Code("400", "a path with dot segments, encoded separators outside a model's id, or // that leads to no route", "send the route's plain path"),
    "invalid_body": Code("400", "a field that the protocol requires is missing from the body, or a field has a wrong type", _BODY),
    "unpriced_field": Code("400", "a field that would change the price or the upstream's state, and has no price here", "leave the field out"),
    "context_length_exceeded": Code("400", "the input and the requested output exceed the model's context; the message is from the model's server, without names", "shorten the input, or ask for fewer tokens"),
    "unsupported_input": Code("400", "the request contains input that the model does not accept: images, sound, tools", "use another model, or leave the input out"),
    "untranslatable": Code("400", "no deployment of the model speaks the request's protocol, and the protocol that one speaks can't express the field (docs/TRANSLATION.md)", "leave the field out, or use the protocol that the message names"),
    "forbidden_link": Code("400", "a URL of media that no upstream may fetch: not a public address, or not http, https or data", "send the content itself, or a public link"),
    "foreign_object": Code("400", "an upstream object that this account did not receive", "use an object of this account"),
    "content_policy_violation": Code("400 or 403", "a content policy of the model's server refuses the request; the message is from that server, without names", _BODY),
    "refused_by_model": Code("400, 413 or 422", "the model's server refuses the content of the request; the message is from that server, without names", _BODY),
    "invalid_idempotency_key": Code("400", "an Idempotency-Key is 1 to 255 printable ASCII characters", "send such a key, or none"),
    "idempotency_in_flight": Code("409", "the first request with this Idempotency-Key is not over", _AGAIN),
    "idempotency_key_reused": Code("422", "the Idempotency-Key was used with another route, query or body", "repeat that request exactly, or use a new key"),
    "idempotency_key_spent": Code("409", "the first request with this Idempotency-Key was, or may have been, answered and charged, and its answer can't be given again: it was too large, or the database or a host was away", "use a new key, if the request is to be served and charged again"),
    "too_many_idempotency_keys": Code("429", "the account has replay_account_answers_max stored answers", "wait until older keys are over, or send no key"),
    "response_not_found": Code("404", "no stored response or chat completion has this id: none was stored, it is of another member, it was deleted, or its days are over", "send the items themselves in `input`"),
    "response_in_flight": Code("409", "the stored response has no usage record yet, or that is on another host", _AGAIN),
    "response_too_large": Code("413", "the request, with the items of the response that it continues, is larger than body_bytes_max; or it is to be stored and its input is larger than replay_answer_bytes_max", "send less, or `store: false`"),
    "unsupported_operation": Code("400", "an operation on responses that is not offered here: to stream a stored response again, or to compact a conversation with a model to fall back to that does not", "use what the message names"),
    "not_compacted": Code("422", "a conversation was to be compacted, and the model wrote no summary of it; what it wrote is charged", "go on with the conversation as it is, or compact it with another model"),
    "not_found": Code("404", "no such route", "use the route that the message names"),
    "model_not_found": Code("404", "no deployment serves this model in this protocol", "GET /v1/models lists the models"),
    "method_not_allowed": Code("405", "the route does not take this method", "use the method that the message names"),
    "request_timeout": Code("408", "the request did not arrive in time", "send it again, faster"),
    "body_too_large": Code("413", "the body is larger than body_bytes_max", "send less"),
    "unsupported_encoding": Code("415", "a body in another content coding than gzip, deflate, br or zstd, or in more than two", "send it in one of these, or as it is"),
    "expectation_failed": Code("417", "an Expect header other than 100-continue", "leave it out"),
    "upgrade_required": Code("426", "the request asks for WebSocket", "send the same request over HTTP"),
    "headers_too_large": Code("431", "more than header_bytes_max or header_count_max", "send fewer headers"),
    "http_version": Code("505", "another version than HTTP/1.0 or 1.1", "use HTTP/1.1"),
    # The key and the account.
    "invalid_api_key": Code("401", "no key, a typo, or a key that was never issued here", "check that the key is complete and was issued here",
        "API 密钥无效：请检查密钥是否完整、是否为本平台签发。"),
    "key_revoked": Code("401", "the key was revoked: by its owner, by the operator, or since its member was removed from the account", "use another key, or ask the account's owner for one",
        "该 API 密钥已被撤销：请使用其他密钥，或向账户所有者申请新密钥。"),
    "key_expired": Code("401", "the key has expired", "make a new key, or ask the account's owner for one",
        "该 API 密钥已过期：请创建新密钥，或向账户所有者申请。"),
    "origin_not_allowed": Code("403", "a page of this origin may not use the key", "add the origin to the key, or use another key",
        "该密钥不允许在此网页来源使用：请为密钥添加该来源，或换用其他密钥。"),
    "model_not_allowed": Code("403", "this key may not use the model", "use another model, or a key that may",
        "该密钥无权使用此模型：请换用其他模型，或使用有权限的密钥。"),
    "account_suspended": Code("403", "the subscriber is suspended; the message gives the reason", "follow the message: pay, resume the account, or ask support. The key itself is valid",
        "账户已暂停服务：密钥本身有效，请按提示缴费、恢复或联系客服。"),
    "account_closed": Code("403", "the account is closed: requests are neither served nor charged", "use a key of another account, or ask support",
        "账户已销户，不再提供服务，也不再计费：请使用其他账户的密钥，或联系客服。"),
    "consent_missing": Code("403", "the account has withdrawn its consent to the terms, or has not given it", "agree on the account's privacy page",
        "账户尚未同意或已撤回服务条款：请在“隐私与个人信息”页重新同意。"),
    "residency": Code("403", "the account's data may not go where the model is served", "use another model, or agree to the transfer on the privacy page",
        "账户数据不得传输至该模型所在地区：请换用其他模型，或在“隐私与个人信息”页同意传输。"),
    "model_not_filed": Code("403", "the model is not declared as filed, and filing_required is set", "use another model",
        "该模型尚未登记备案，暂不可用：请换用其他模型。"),
    "nothing_left": Code("402", "the balance of the account, or the rest of the key's cap, does not cover the request", "order a plan or a top-up, raise the cap, or ask for fewer tokens",
        "余额不足以完成本次请求：请订购套餐或加油包，或减少请求的词元数。"),
    "allowance_used_up": Code("429", "the plan's allowance for 5 hours or for a week is used up", "wait; Retry-After says when the next tokens become available",
        "套餐在当前时段内的用量已用完：请稍后再试。"),
    "rate_limited": Code("429", "over a protective limit of the key, member, subscriber or deployments", "send it again; Retry-After says when there is room",
        "请求过于频繁，已达到限额：请稍后再试。"),
    # The server.
    "too_many_requests": Code("429", "over the admission limit, or over an address's share of memory_bytes_max", _AGAIN),
    "upstream_error": Code("502", "every deployment that was tried failed", f"send it again; if the error stays, {_OPERATOR}"),
    "overloaded": Code("503", "all deployments of the model are at their limits and none became free in time, or too many requests are queued", _AGAIN),
    "no_deployment": Code("503", "no deployment can take the request now", _AGAIN),
    "memory_full": Code("503", "the worker has as many bytes in flight as memory_bytes_max allows", _AGAIN),
    "journal_full": Code("503", "the disk of the host's journal is nearly full, or too many of its records wait for the database; the host accepts no new requests", f"{_AGAIN}: another host may accept it"),
    "recorder_away": Code("503", "the host's recorder does not answer", _AGAIN),
    "database_away": Code("503", "the database does not answer, and the host's grants are used up", _AGAIN),
    "pepper_missing": Code("503", "the host lacks a pepper of the works, so it cannot check the key", f"{_AGAIN}: another host can check it. The operator copies the file (runbook: Another pepper)"),
    "shutting_down": Code("503", "this worker is stopping, and its drain time is over", "send it again: another worker accepts it at once"),
    "clock_skew": Code("503", "the host's clock is off by more than clock_skew_max_s; the host accepts no new requests", f"{_AGAIN}: another host may accept it"),
    "granted_elsewhere": Code("503", "another worker or host holds what would cover the request", "send it again at once"),
    "upstream_timeout": Code("504", "the deployment did not answer in time", "send it again, or ask for less"),
}  # fmt: skip


__all__ = ["CODES", "Code"]
