"""Distributed PreLAR: world models pre-trained on action-free video, fine-tuned with Ray."""

import os
from importlib.metadata import PackageNotFoundError, version

# Threads that spin while they wait cost several times their gain as soon as another process wants the core. OpenMP
# reads this when torch is loaded, so it is set before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    __version__ = version("prelar-ray")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"
