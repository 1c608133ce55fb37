"""``python -m prelar_ray.tune SWEEP``: the same as ``prelar-ray tune SWEEP``."""

from prelar_ray.commands.cli import guarded
from prelar_ray.commands.tune import main

if __name__ == "__main__":
    guarded(main)
