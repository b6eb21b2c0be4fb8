"""Every recipe of ``docs/extend.md``, run as it stands there."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mnist_lit import cli
from mnist_lit.training import hydra
from tests.conftest import PROJECT, write_idx

PAGE = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
# Each trains or exports several times.
LONG = ("Data: a folder in MNIST's layout", "Weights to share")
# Two epochs of a few batches: a recipe must run, not learn.
QUICK = (
    *("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1"),
    *("trainer.accelerator=cpu", "requirements.enforce=false", "callbacks.progress=null"),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a checkout, with a user's data set."""
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    write_idx(tmp_path / "fashion", classes=10, side=28)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    return tmp_path


def parts(recipe: str) -> Iterator[tuple[str | None, str, str]]:
    """Yield the blocks of a recipe: the file's name, if any, the language, the text."""
    for found in re.finditer(r"(?:^`(\S+)`\n)?^```(\w+)\n(.*?)^```", recipe, re.M | re.S):
        yield found[1], found[2], found[3]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in RECIPES]
)
@pytest.mark.filterwarnings("ignore:.*overridden `on_after_batch_transfer`")
@pytest.mark.usefixtures("few_images")
def test_a_recipe_runs_as_it_stands(name: str, place: Path) -> None:
    done, names = 0, {"__name__": "__main__"}
    for file, language, text in parts(RECIPES[name]):
        if file is not None:
            path = place / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif language == "python":
            exec(text, names)
            done += 1
        else:
            for line in text.splitlines():
                done += 1
                run(line, place / f"run{done}", place / f"run{done - 1}")
    assert done


def run(line: str, run_dir: Path, before: Path) -> None:
    """Run a line of the page; ``RUN`` is the folder of the previous run."""
    program, *arguments = shlex.split(line)
    if program == "python":
        assert arguments[0] == "train.py"
        own = [argument.replace("RUN", str(before)) for argument in arguments[1:]]
        # A fast network that accepts the images, unless the initial weights need another one.
        fast = ["model=optimized" if "data=stripes" in own else "model=nano"]
        if "init_from=final" in own:
            fast = []
        # The first run of a recipe with the user's own data also tests.
        tested = run_dir.name == "run1" and any(word.startswith("data=") for word in own)
        options = [*QUICK, *fast, f"test={tested}", f"hydra.run.dir={run_dir}"]
        hydra.main(Path("conf"), [*options, *own])
        report = json.loads((run_dir / "report.json").read_text())
        assert report["epochs"] >= 1
        assert np.isfinite(report["test_loss" if tested else "last_val_loss"])
        return
    assert program == "mnist-lit"
    cli.main([argument.replace("RUN", str(before)) for argument in arguments])
    # A second command uses the same run.
    before.rename(run_dir)


def test_the_largest_recipe_needs_twelve_lines_and_touches_no_file_of_ours() -> None:
    for recipe in RECIPES.values():
        for file, _, text in parts(recipe):
            if file is not None:
                lines = [line for line in text.splitlines() if line.strip()]
                assert len(lines) <= 12, file
                assert not (PROJECT / file).exists(), file
