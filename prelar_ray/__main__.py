"""``python -m prelar_ray COMMAND``: the same as the console script ``prelar-ray``."""

from prelar_ray.commands.cli import main

if __name__ == "__main__":
    main()
