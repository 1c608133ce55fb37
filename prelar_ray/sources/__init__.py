"""Readers of videos in other formats, one module a format, behind :class:`~prelar_ray.sources.source.Source`."""
