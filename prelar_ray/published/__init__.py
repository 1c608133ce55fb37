"""Checkpoints of the published code: names, widths, files, and conversion in both directions."""
