"""Clusters of machines that `ray up` starts: their file, and what is checked of every machine over SSH."""
