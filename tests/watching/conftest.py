from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from prelar_ray.storage import run_folder
from prelar_ray.storage.provenance import provenance
from prelar_ray.watching.problems import Problems


@pytest.fixture(scope="session", autouse=True)
def _ask_for_the_commit_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "provenance", cache(provenance))
        yield


@pytest.fixture
def problems() -> Problems:
    return Problems()
