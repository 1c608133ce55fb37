"""``python -m benchmarks NAME``: imports only the chosen benchmark, so that each needs only its own libraries."""

from __future__ import annotations

import importlib
import sys

NAMES = {
    "gpu": "all that a GPU is to show, stage by stage with limits, into one file",
    "agreement": "captured and compiled updates against eager ones (torch alone)",
    "learner": "updates of both phases: time, FLOP/s, memory, by number format and by part (torch alone)",
    "acting": "frames to actions, one and many (torch alone)",
    "weights": "from the learner to collectors that act with it, on Ray",
    "replay": "inserting and sampling beside a plain copy, in one process and on Ray",
    "memory": "bytes of a step in the replay, and of every process of a run",
    "compression": "frames compressed in the replay: bytes saved, and the time of a batch",
    "checkpoint": "the cost of a checkpoint for concurrent updates (torch alone)",
    "collector": "a collector beside the bare environment, and with workers that step it",
    "experts": "success and return of scripted experts and of a random policy, task by task",
    "own_environments": "a policy in environments of others, by images or vectors, beside a random one (torch alone)",
    "record": "recording videos with several processes",
    "data": "videos from their files to clips: converting, loading by compression, opening a large store",
    "sample_sources": "small folders of other formats, to try prelar-ray prepare on",
    "end_to_end": "a whole fine-tuning run: rates, and waiting times of the roles",
    "roofline": "a figure of the results of learner --parts",
    "scaling": "an update shared by several ranks (torch alone)",
    "control_plane": "only the loop and Ray, with many collectors and ranks that sleep",
    "cost_model": "one GPU per run or a batch split over several: a model of eight RTX 3090 (torch alone)",
    "packages": "the package and each extra in an empty environment: megabytes, seconds",
    "structure": "modules and lines of every package, and who imports whom",
    "compare": "times of two result files",
    "gather": "run folders into one result file: settings, measurements, evaluations, diagnostics",
    "spans": "variants over seeds and tasks: every evaluation, and means over spans of environment steps",
    "table": "result files as Markdown",
    "compare_reports": "two folders of reports: pages, pictures and tables must be equal",
    "methods": "every method, both phases: losses, time per update, peak memory",
    "foresight": "what a world model foresees of movements and rewards, on fixed experience (torch alone)",
    "latent_sweep": "the weight of the latent action's KL against its diagnostics: which the rule chooses",
    "latent_actions": "pre-training variants and baselines on one task: diagnostics, returns over seeds (hours)",
}


def main() -> int:
    """Dispatch."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        listing = "\n".join(f"  {key:<18}{line}" for key, line in NAMES.items())
        sys.stderr.write(f"usage: python -m benchmarks NAME [--help]\n\n{listing}\n")
        return 0 if name in ("-h", "--help") else 2
    code: int = importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])
    return code


if __name__ == "__main__":
    sys.exit(main())
