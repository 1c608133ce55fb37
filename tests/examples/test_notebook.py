from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "video_to_policy.ipynb"
SIZES = "UPDATES, ENV_STEPS, VIDEOS = 2_000, 16_000, 300"


@pytest.mark.timeout(900)
def test_the_notebook_runs_from_the_first_cell_to_the_last_and_plots(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    sizes = next(cell for cell in notebook.cells if cell.source.startswith(SIZES))
    sizes.source = sizes.source.replace(SIZES, "UPDATES, ENV_STEPS, VIDEOS = 20, 1_300, 12")
    shutil.copy(NOTEBOOK.with_name("arena.yaml"), tmp_path)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 6
    assert (tmp_path / "notebook" / "policy" / "checkpoints").is_dir()


def test_the_committed_notebook_has_the_pictures_of_a_whole_run_and_no_errors() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    assert NOTEBOOK.stat().st_size < 400_000
