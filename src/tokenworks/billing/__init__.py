"""Bills and questions about them, payments, the phone bill's charge files, refunds and dunning."""

from tokenworks.kernel.door import open_door

open_door(__name__)
