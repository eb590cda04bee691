"""One metered request, from its key to its record."""
