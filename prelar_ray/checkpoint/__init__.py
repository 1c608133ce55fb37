"""Checkpoints: atomic, checked, and loadable without running anybody's code."""
