"""What people and other systems ask over HTTP: TM Forum resources, account, operations, pages."""

from tokenworks.kernel.door import open_door

open_door(__name__)
