"""The notebook, run from top to bottom by a kernel, as by its reader."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import PROJECT, needs_compiler

FILE = PROJECT / "notebooks" / "tour.ipynb"


def words(notebook: Any) -> str:
    """Return the output of all code cells."""
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


@pytest.mark.slow
@needs_compiler
def test_the_tour_runs_and_says_what_is_kept_in_the_file(tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8")
    kept, fresh = (nbformat.reads(text, as_version=4) for _ in range(2))  # type: ignore[no-untyped-call]
    NotebookClient(
        fresh,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    for was, now in zip(kept.cells, fresh.cells, strict=True):
        if was.cell_type == "code":
            assert [
                output.output_type for output in was.outputs if output.output_type != "stream"
            ] == [output.output_type for output in now.outputs if output.output_type != "stream"]
    for line in (
        "9,960 of 10,000 right",
        "read as 3",
        "REQUIREMENTS CHECK",
        "9,904 of 10,000 right",
    ):
        assert line in words(kept)
        assert line in words(fresh)
    assert "rror" not in words(kept)
