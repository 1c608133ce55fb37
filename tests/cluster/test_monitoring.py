"""What Prometheus and Grafana are given: the files, and every query of the dashboard on a real study."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from prelar_ray.telemetry.metrics import GAUGES, METRICS, Metric
from tests.conftest import MINUTE

FOLDER = Path(__file__).parents[2] / "cluster"
CONFIG = FOLDER / "prometheus.yml"
DASHBOARD = json.loads((FOLDER / "grafana" / "prelar_ray.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPORTED = {f"ray_prelar_{name.replace('/', '_')}": metric for name, metric in (METRICS | GAUGES).items()}

NEEDS_GPU = {
    "Share of the time in which the learner's GPU computes",
    "Share of updates that replay a CUDA graph",
    "GPU memory of the learner",
    "Utilisation of GPUs",
    "Memory of GPUs",
}
"""Panels that stay empty on a machine without one."""

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool on the PATH, Debian's package prometheus",
)


def named(panel: dict[str, Any]) -> set[str]:
    """Gauges of this package that a panel shows."""
    return {name for target in panel["targets"] for name in re.findall(r"ray_prelar_\w+", target["expr"])}


# The files


def test_every_panel_has_an_id_a_title_a_unit_and_a_description_of_its_own() -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in DASHBOARD["panels"]]
        assert len(set(values)) == len(values), key
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_panels_fill_their_rows_and_never_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    width, height = (max(cell[axis] for cell in taken) + 1 for axis in (0, 1))
    assert (width, len(taken)) == (24, 24 * height)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_metric_of_a_panel_exists_and_is_explained_as_in_its_table(panel: dict[str, Any]) -> None:
    assert named(panel) <= EXPORTED.keys(), "neither METRICS nor GAUGES has them"
    for target in panel["targets"]:
        if plain := re.fullmatch(r"max by \(\w+\) \((\w+)\S*\)", target["expr"]):  # not computed from several
            assert EXPORTED.get(plain[1], Metric("", "")).reading in panel["description"]
        for name in re.findall(r"ray_(node_\w+|component_\w+)", target["expr"]):
            assert name in METRICS_GAUGES, f"this Ray exports no ray_{name}"


def test_panels_of_runs_obey_the_choice_of_runs() -> None:
    of_studies = {"ray_prelar_study_runs", "ray_prelar_study_progress"}
    for panel in PANELS:
        expressions = " ".join(target["expr"] for target in panel["targets"])
        for name in named(panel) - of_studies:
            assert re.findall(rf'{name}(?!{{run=~"\$run"}})\b', expressions) == [], panel["title"]


def test_panels_that_need_a_gpu_exist() -> None:
    assert {panel["title"] for panel in PANELS} >= NEEDS_GPU


def test_grafana_is_told_where_prometheus_and_the_dashboard_are() -> None:
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "prelar_ray.yml").read_text())["providers"]
    path = Path(provider["options"]["path"].replace("$GF_PATHS_PROVISIONING", str(provisioning)))
    assert (path.resolve() / "prelar_ray.json").exists()


@needs_prometheus
def test_promtool_accepts_the_configuration() -> None:
    subprocess.run(["promtool", "check", "config", str(CONFIG)], check=True, capture_output=True)


# With a real Prometheus


class Prometheus:
    """A running one, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/api/v1"
        self.began = time.time()

    def ask(self, path: str, **arguments: Any) -> Any:
        try:
            with urlopen(f"{self.address}/{path}?{urlencode(arguments)}", timeout=30) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error

    def series(self, expression: str) -> list[Any]:
        """Of a query over all the time since the start, as a panel asks for it."""
        span = {"start": self.began, "end": time.time(), "step": 5}
        return self.ask("query_range", query=expression, **span)["result"]

    def healthy(self) -> list[str]:
        """Addresses that answer."""
        return [target["scrapeUrl"] for target in self.ask("targets")["activeTargets"] if target["health"] == "up"]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(2)


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that gets Ctrl-C at the end, and time for what it does then."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def prometheus(folder: Path, ray_folder: Path) -> Iterator[Prometheus]:
    """The project's configuration, with the discovery file of a Ray that keeps its files in ``ray_folder``."""
    text = CONFIG.read_text()
    assert text.count("- /tmp/ray/") == 1
    (folder / CONFIG.name).write_text(text.replace("- /tmp/ray/", f"- {ray_folder}/"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["prometheus", f"--config.file={folder / CONFIG.name}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], folder / "prometheus.txt") as process:
        found = Prometheus(port)

        def ready() -> bool:
            assert process.poll() is None, (folder / "prometheus.txt").read_text()
            try:
                return bool(found.ask("status/runtimeinfo"))
            except URLError:
                return False

        wait_for(ready, 60, "Prometheus")
        yield found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short path, as Ray's sockets need it."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as path:
        yield Path(path)


def sweep_file(folder: Path) -> Path:
    """Two runs, one after the other, of which none ends within the test."""
    pairs = [word.partition("=") for word in MINUTE.split()]
    settings = {key: yaml.safe_load(value) for key, _, value in pairs if key not in ("cluster", "env.task")}
    settings |= {"finetune.env_steps": 500_000, "finetune.random_steps": 300, "replay.tolerance_updates": 8}
    settings |= {"evaluation.every_env_steps": 500, "checkpoint.every_updates": 500, "telemetry.every_updates": 20}
    finetune = {"methods": ["dreamerv2"], "tasks": ["prelar/point-reach"], "seeds": [0, 1]}
    path = folder / "watched.yaml"
    path.write_text(yaml.safe_dump({"settings": settings, "concurrent": 1, "finetune": finetune}))
    return path


@needs_prometheus
@pytest.mark.cluster
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_every_query_of_the_dashboard_finds_series_of_a_real_study(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    command = [sys.executable, "-m", "prelar_ray", "tune", str(sweep_file(tmp_path)), "--out", str(tmp_path / "study")]
    log = tmp_path / "log.txt"
    with prometheus(tmp_path, temporary / "ray") as found, running(command, log) as study:
        queries = [
            (panel["title"], target["expr"].replace("$run", ".*")) for panel in PANELS for target in panel["targets"]
        ]
        empty: list[tuple[str, str]] = []

        def all_found() -> bool:
            assert study.poll() is None, log.read_text()
            empty[:] = [(title, query) for title, query in queries if not found.series(query)]
            return {title for title, _ in empty} <= NEEDS_GPU

        wait_for(all_found, 300, f"series of {empty}")
        (run,) = found.ask("label/run/values", **{"match[]": "ray_prelar_update"})
        assert run.startswith("finetune/dreamerv2/"), "the choice of runs is offered"
        states = found.ask("query", query="ray_prelar_study_runs")["result"]
        counts = {one["metric"]["state"]: float(one["value"][1]) for one in states if float(one["value"][1])}
        assert counts == {"running": 1, "waiting": 1}
        assert {one["metric"]["study"] for one in states} == {"watched"}
    assert study.returncode == 130, log.read_text()


@needs_prometheus
@pytest.mark.cluster
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_node_that_joins_later_is_scraped_without_being_listed(tmp_path: Path, temporary: Path) -> None:
    from ray.cluster_utils import Cluster

    of_all = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    head = {"include_dashboard": True, "dashboard_port": 0, "temp_dir": str(temporary)}
    cluster = Cluster(initialize_head=True, head_node_args={**of_all, **head})
    try:
        with prometheus(tmp_path, temporary) as found:

            def nodes(count: int) -> bool:
                known = found.ask("query", query="count(ray_node_cpu_count)")["result"]
                return bool(known) and int(known[0]["value"][1]) == count

            wait_for(lambda: nodes(1), 120, "the head")
            cluster.add_node(**of_all)
            wait_for(lambda: nodes(2), 120, "the node")
            assert all(url.startswith("http://127.0.0.1:") for url in found.healthy())
    finally:
        cluster.shutdown()
