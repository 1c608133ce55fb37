from __future__ import annotations

import pytest
import torch

from tests.parity.folder import PUBLIC, ParityFolder

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder() -> ParityFolder:
    """The public parity folder; read only."""
    return ParityFolder.load(PUBLIC)
