"""Configuration, wiring, the command line and the processes."""
