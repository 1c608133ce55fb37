"""Measurements: ``python -m benchmarks NAME`` runs one, prints a table and writes JSON."""
