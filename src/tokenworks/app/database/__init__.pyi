from tokenworks.app.database.connections import connect
from tokenworks.app.database.schema import migrate

__all__ = ["connect", "migrate"]
