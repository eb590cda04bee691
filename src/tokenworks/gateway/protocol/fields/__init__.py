"""The requests of each protocol: the allow-lists as data, the reading of a body by them, and the body for one deployment."""

from tokenworks.gateway.protocol.fields.body import Parsed, count_values, note_defect, parse_body, warm
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, BodyError
from tokenworks.gateway.protocol.fields.lists import (
    PROTOCOLS,
    allowed_query,
    fold,
    is_maximum,
    lists_of,
    never_names,
)
from tokenworks.gateway.protocol.fields.own import tags_of
from tokenworks.gateway.protocol.fields.prompt import count_tools, is_prompt, last_user_text, requested_effort
from tokenworks.gateway.protocol.fields.render import HEADER_BYTES_MAX, dropped_header, passing_body, render
from tokenworks.gateway.protocol.fields.tools import tools_refused

__all__ = [
    "HEADER_BYTES_MAX",
    "PROTOCOLS",
    "UNREADABLE",
    "BodyError",
    "Parsed",
    "allowed_query",
    "count_tools",
    "count_values",
    "dropped_header",
    "fold",
    "is_maximum",
    "is_prompt",
    "last_user_text",
    "lists_of",
    "never_names",
    "note_defect",
    "parse_body",
    "passing_body",
    "render",
    "requested_effort",
    "tags_of",
    "tools_refused",
    "warm",
]
