"""Configuration, wiring, the database's processes and the server's processes."""
