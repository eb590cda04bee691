"""The base of all topics of settings: they are frozen, and an unknown name is an error."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tokenworks.kernel import flaw, is_digits


class Topic(BaseModel):
    """Settings of one topic. Sizes in bytes, times in seconds, as the names say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _text(cls, value: object) -> object:
        """A setting is shown in terminals, in logs and on bills: a text that acts there (control characters, say) is refused."""
        found = flaw(str(value)) if isinstance(value, str | Path) else None
        if found is not None:
            raise ValueError(f"it has {found}: leave it out")
        return value


def limit(default: int, least: int, most: int, what: str) -> int:
    """A setting that is a number within bounds."""
    return Field(default=default, ge=least, le=most, description=what)


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT`. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not is_digits(port, 5) or int(port) > 65535 or not host:
        raise ValueError(f"an address is HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)
