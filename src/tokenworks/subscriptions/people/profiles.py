"""The fields of a subscriber's profile, and the values that each can have."""

import re
from collections.abc import Iterable
from typing import Final, get_args

from tokenworks.catalog import Audience
from tokenworks.kernel import Invalid, check_line

REGIONS_MAX: Final = 100
BROADBAND: Final = re.compile(r"[0-9A-Za-z@-]{6,32}")
_REGION: Final = re.compile(r"[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,3}")


def checked_name(name: str | None) -> str | None:
    """A subscriber's name as it is kept. Raises `Invalid`."""
    return None if name is None else check_line(name, "a name")


def check_profile(fields: dict[str, object]) -> None:
    """Check the fields of a profile, and replace name, audiences and regions by what is stored. Raises `Invalid`."""
    if "name" in fields:
        fields["name"] = checked_name(_text(fields, "name"))
    if fields.get("audiences") is not None:
        audiences = _texts(fields, "audiences")
        if not audiences or not set(audiences) <= set(get_args(Audience)):
            raise Invalid(f"audiences are {', '.join(get_args(Audience))}")
        fields["audiences"] = audiences
    if fields.get("regions") is not None:
        regions = _texts(fields, "regions")
        if not 0 < len(regions) <= REGIONS_MAX or not all(_REGION.fullmatch(region) for region in regions):
            raise Invalid(
                f"data may go to 1 to {REGIONS_MAX} regions such as cn or cn-sh; no list means all regions"
            )
        fields["regions"] = regions
    home_region = _text(fields, "home_region")
    if home_region is not None and not _REGION.fullmatch(home_region):
        raise Invalid("a home region is a region such as cn-sh, or none if it is not known")
    if fields.get("language", "zh") not in {"zh", "en"}:
        raise Invalid("a language is zh or en")
    broadband = _text(fields, "broadband")
    if broadband is not None and not BROADBAND.fullmatch(broadband):
        raise Invalid("a broadband account number is 6 to 32 letters, digits, - or @")
    bill_day = fields.get("bill_day", 1)
    assert isinstance(bill_day, int)
    if not 1 <= bill_day <= 28:
        raise Invalid("a billing day is 1 to 28")
    limit_nano = fields.get("credit_limit_nano")
    assert limit_nano is None or isinstance(limit_nano, int)
    if limit_nano is not None and not 0 <= limit_nano <= 10**16:
        raise Invalid("a credit limit is 0 to 10,000,000 yuan")
    if fields.get("real_name", "unknown") not in {"unknown", "pending", "verified", "refused"}:
        raise Invalid("a real-name state is unknown, pending, verified or refused")


def _text(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name)
    assert value is None or isinstance(value, str)
    return value


def _texts(fields: dict[str, object], name: str) -> list[str]:
    values = fields[name]
    assert isinstance(values, Iterable)
    return list(values)
