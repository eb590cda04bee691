"""What the HTTP API and the pages share: principals and roles, errors, lists, addresses."""

from tokenworks.web.errors import status_of
from tokenworks.web.services import Services

__all__ = ["Services", "status_of"]
