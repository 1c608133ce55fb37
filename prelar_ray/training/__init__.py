"""Loops over roles, the same in one process and on a cluster."""
