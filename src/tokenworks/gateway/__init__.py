"""The data plane: relay, metering, holds."""

from tokenworks.kernel.door import open_door

open_door(__name__)
