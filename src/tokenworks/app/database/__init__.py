"""The database of an installation: where it is, its schema and roles, the embedded server, backups."""

from tokenworks.app.database.connections import connect
from tokenworks.app.database.schema import migrate

__all__ = ["connect", "migrate"]
