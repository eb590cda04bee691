"""The roles of callers."""

from typing import Final, Literal

StaffRole = Literal["operator", "finance", "auditor"]
Role = Literal["owner", "admin", "member", "operator", "finance", "auditor"]
STAFF_ROLES: Final = frozenset({"operator", "finance", "auditor"})
