"""Converts sources of any format to a video store: in parallel, in order, and resumable."""
