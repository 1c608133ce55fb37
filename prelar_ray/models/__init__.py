"""Networks, one per file, named as in the paper. Pure torch."""
