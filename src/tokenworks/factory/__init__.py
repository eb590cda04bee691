"""Models, deployments, health and placement. Never knows a price to a customer."""

from tokenworks.kernel.door import open_door

open_door(__name__)
