"""Measurements: ``python -m benchmarks NAME`` runs one, prints a table and writes JSON."""

import prelar_ray  # noqa: F401  first: it says how OpenMP's threads wait, before torch loads them
