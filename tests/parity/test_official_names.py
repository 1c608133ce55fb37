"""Names of the published code's tensors; that every one has a name here is part of the comparison of checkpoints."""

from __future__ import annotations

import pytest

from prelar_ray.published.names import official_key


def test_unknown_part_has_no_published_name() -> None:
    with pytest.raises(KeyError):
        official_key("discriminator.weight")
