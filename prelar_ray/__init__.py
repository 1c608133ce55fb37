"""Distributed PreLAR: world models pre-trained on action-free video, fine-tuned with Ray."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("prelar-ray")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"
