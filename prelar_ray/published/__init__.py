"""Checkpoints of the authors' code: their names, widths and files, and conversion both ways."""
