"""Whether the nodes of a cluster share the folder that runs are written to."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import ray

from prelar_ray.errors import ResourceError

__all__ = ["check_shared"]


def check_shared(folder: Path) -> None:
    """Make sure that every node of the cluster sees ``folder`` and may write there.

    Raises:
        ResourceError: one does not; names it.
    """
    here = socket.gethostname()
    token = folder.absolute() / f".shared-{uuid.uuid4().hex}"
    token.write_text(here)

    def look(path: str) -> str:
        try:
            answer = Path(f"{path}-{uuid.uuid4().hex}")
            seen = Path(path).exists()
            answer.write_text("")
            answer.unlink()
        except OSError as error:
            return f"cannot write there ({error.strerror})"
        return "" if seen else "has another folder of that name"

    try:
        for node in [node for node in ray.nodes() if node["Alive"]]:
            affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, scheduling_strategy=affinity)
            problem = ray.get(task.remote(str(token)), timeout=120)
            if problem:
                raise ResourceError(
                    f"{folder}: node {node['NodeManagerAddress']} {problem}; any node may come to hold a part of a "
                    "run, so give an --out on storage that all of them share"
                )
    finally:
        token.unlink(missing_ok=True)
