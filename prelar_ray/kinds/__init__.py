"""Kinds of run: what tells a pre-training, a fine-tuning and an algorithm of RLlib apart, one module each.

Whoever plans, starts, estimates or reports a run asks its kind. A new kind is a module with a subclass of
:class:`~prelar_ray.kinds.kind.Kind`, and its entry in :data:`KINDS`.
"""

from prelar_ray.config import RunConfig
from prelar_ray.kinds.finetune import Finetune
from prelar_ray.kinds.kind import Cost, Kind, Length, Phase
from prelar_ray.kinds.pretrain import Pretrain
from prelar_ray.kinds.rllib import RLlib

__all__ = ["KINDS", "Cost", "Kind", "Length", "Phase", "find_kind", "kind_of"]

KINDS: tuple[Kind, ...] = (Pretrain(), RLlib(), Finetune())
"""In the order in which they are asked whether a run is theirs."""


def kind_of(config: RunConfig, phase: Phase) -> Kind:
    """Return the kind of a run that goes through ``phase`` with ``config``."""
    kind = find_kind(phase, config.method)
    assert kind is not None
    return kind


def find_kind(phase: str, method: str) -> Kind | None:
    """Return the kind of a run folder by what it records of itself; None where nothing was trained."""
    return next((kind for kind in KINDS if kind.phase == phase and kind.matches(method)), None)
