"""What may be known of a subscriber: the values that each field of a profile can have."""

import re
from typing import Any, Final, get_args

from tokenworks.catalog import Audience
from tokenworks.kernel import Invalid, check_line

REGIONS_MAX: Final = 100
BROADBAND: Final = re.compile(r"[0-9A-Za-z@-]{6,32}")
_REGION: Final = re.compile(r"[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,3}")


def check_profile(fields: dict[str, Any]) -> None:
    """Raises `Invalid`."""
    name, audiences = fields.get("name"), fields.get("audiences")
    if name is not None:
        fields["name"] = check_line(name, "a name")
    if audiences is not None:
        if not audiences or not set(audiences) <= set(get_args(Audience)):
            raise Invalid(f"audiences are {', '.join(get_args(Audience))}")
        fields["audiences"] = list(audiences)
    regions = fields.get("regions")
    if regions is not None:
        if not 0 < len(regions) <= REGIONS_MAX or not all(_REGION.fullmatch(region) for region in regions):
            raise Invalid(
                f"data may go to 1 to {REGIONS_MAX} regions such as cn or cn-sh; anywhere is none at all"
            )
        fields["regions"] = list(regions)
    home = fields.get("home_region")
    if home is not None and not _REGION.fullmatch(home):
        raise Invalid("a home region is one such as cn-sh; none is nowhere in particular")
    if fields.get("language", "zh") not in {"zh", "en"}:
        raise Invalid("a language is zh or en")
    broadband = fields.get("broadband")
    if broadband is not None and not BROADBAND.fullmatch(broadband):
        raise Invalid("a broadband account number is 6 to 32 letters, digits, - or @")
    if not 1 <= fields.get("bill_day", 1) <= 28:
        raise Invalid("a billing day is 1 to 28")
    limit = fields.get("credit_limit_nano")
    if limit is not None and not 0 <= limit <= 10**16:
        raise Invalid("a credit limit is 0 to 10,000,000 yuan")
    if fields.get("real_name", "unknown") not in {"unknown", "pending", "verified", "refused"}:
        raise Invalid("a real-name state is unknown, pending, verified or refused")
