from __future__ import annotations

from typing import Any

import pytest

from prelar_ray.distributed.dashboard import Dashboard

USED = "1.97/2.0 CPU (1.97 used of 1.97 reserved in placement groups)\n1.0/4.0 GPU\n70.31MiB/20.56GiB memory"


@pytest.mark.parametrize("key", ["abc", "10.0.0.2"], ids=["by number", "by address, as the launcher of ray up does"])
def test_what_a_node_gave_away_is_found_however_the_dashboard_names_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    raylet = {"nodeId": "abc", "state": "ALIVE", "resourcesTotal": {"CPU": 2.0, "GPU": 4.0}}
    summary = [{"hostname": "gpu1", "ip": "10.0.0.2", "raylet": raylet}]
    answer: dict[str, Any] = {"data": {"summary": summary, "nodeLogicalResources": {key: USED}}}
    monkeypatch.setattr(Dashboard, "_ask", lambda self, path: answer)
    (node,) = object.__new__(Dashboard).nodes()
    assert (node.total, node.used) == ({"CPU": 2.0, "GPU": 4.0}, {"CPU": 1.97, "GPU": 1.0})
