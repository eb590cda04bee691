"""Identity: API keys, one-time codes, sessions, staff and roles, idempotency keys, and the pepper that all are hashed under."""

from tokenworks.kernel.door import open_door

open_door(__name__)
