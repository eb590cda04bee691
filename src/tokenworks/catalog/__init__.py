"""What is sold and what it costs: offerings, rate cards and the pure function that rates."""

from tokenworks.kernel.door import open_door

open_door(__name__)
