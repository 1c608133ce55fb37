"""Studies: what a sweep file asks for, as runs that Ray Tune places, and what became of them."""
