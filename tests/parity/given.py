"""What goes in: batch, module inputs and checkpoints, as this project holds them."""

from __future__ import annotations

import numpy as np

from prelar_ray.models.preprocess import postprocess_image, preprocess_image
from tests.parity.folder import FINETUNED, PARTS, Arrays, ParityFolder, to_tensor
from tests.parity.subjects import batch, finetune_learner, finetune_state, named_state, pretrain_learner

_ALIASES = {"wm.rssm.": "wm.af_rssm.", "_task_behavior.": "_expl_behavior."}
"""Tensors that the fine-tuning checkpoint holds twice."""


def inputs(folder: ParityFolder) -> Arrays:
    """``inputs.npz`` as this project sees it: the batch of a learner, flags as booleans, frames there and back."""
    given = batch(folder)
    frames = postprocess_image(preprocess_image(to_tensor(given.image))).movedim(-1, -3)
    flags = "module_inputs/policy/is_first"
    return {
        **folder.arrays["inputs"],  # what modules take as it is; other files show that it matters
        "inputs/image": frames.cpu().numpy(),
        "inputs/action": given.action,
        "inputs/reward": given.reward,
        "inputs/is_first": given.is_first,
        "inputs/is_terminal": given.is_terminal,
        flags: folder.arrays["inputs"][flags].astype(np.bool_),
    }


def tensors(folder: ParityFolder, file: str) -> Arrays:
    """A checkpoint file, from this project's modules after they have loaded the phase's whole checkpoint."""
    if file == FINETUNED:
        state = finetune_state(finetune_learner(folder))
        copies = {
            alias + key.removeprefix(name): value
            for name, alias in _ALIASES.items()
            for key, value in state.items()
            if key.startswith(name)
        }
        return state | copies
    state, prefix = named_state(pretrain_learner(folder).model), PARTS.get(file, "")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
