"""The database of an installation: where it is, its schema and roles, the embedded server, backups."""

from tokenworks.kernel.door import open_door

open_door(__name__)
