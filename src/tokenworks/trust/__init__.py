"""Identity: API keys, one-time codes, sessions, staff and roles, idempotency keys, the peppers of their hashes, and the person vault."""

from tokenworks.kernel.door import open_door

open_door(__name__)
