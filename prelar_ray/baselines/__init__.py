"""Algorithms of Ray RLlib as baselines: same environments, evaluation and run folder."""

import os
from contextlib import suppress

from prelar_ray.envs.opengl import configure_gl
from prelar_ray.errors import RenderingError

# RLlib imports the simulators as soon as it is imported, and the back end that draws has to be chosen before that.
# Where none works, or one that was chosen by hand does not, the environments that need it say so themselves.
if not os.environ.get("MUJOCO_GL"):
    with suppress(RenderingError):
        configure_gl()
