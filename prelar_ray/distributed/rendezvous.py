"""Where learner ranks of a cluster find each other."""

from __future__ import annotations

import ray
from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["Rendezvous"]


class Rendezvous:
    """A store that this process serves as long as the object exists, on a port that the system chose."""

    def __init__(self) -> None:
        host = ray.util.get_node_ip_address()
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        self.address = f"{host}:{self._store.port}"
        """``host:port``, for :meth:`prelar_ray.learning.ranks.Ranks.join` on any node."""
