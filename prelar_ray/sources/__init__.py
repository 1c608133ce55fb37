"""Readers of videos in other people's formats, one module a format behind :class:`~prelar_ray.sources.source.Source`."""
