"""Algorithms of Ray RLlib as baselines: same environments, evaluation and run folder."""

from contextlib import suppress

from prelar_ray.envs.rendering import configure_gl
from prelar_ray.errors import RenderingError

# RLlib imports the simulators as soon as it is imported, and the back end that draws has to be chosen before that.
# Where none works, the environments that need one say so themselves.
with suppress(RenderingError):
    configure_gl()
