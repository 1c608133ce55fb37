"""Data on disk: atomic files, arrays, run and study folders, and the records in them."""
