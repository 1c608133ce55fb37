"""Shared replay: episodes in memory and on disk, sampled at a limited ratio."""
