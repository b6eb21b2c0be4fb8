"""The allowed imports between packages: the layers in ``pyproject.toml``."""

import subprocess
import sys

from tests.conftest import PROJECT


def test_a_room_imports_only_from_the_floors_below() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_reading_pictures_needs_no_training() -> None:
    code = """if True:
        import sys
        import torch
        from mnist_lit import MNIST, cli, load_pretrained, predict
        from mnist_lit.data.reopen import reopen, split
        from mnist_lit.evaluation.evaluate import evaluate
        from mnist_lit.export.run import export
        from mnist_lit.inference import demo
        images = split(reopen(MNIST), "test", MNIST).subset(torch.arange(9))
        evaluate(load_pretrained("nano"), images)
        predict(images.images, "nano")
        heavy = ("pytorch_lightning", "torchmetrics", "torchvision", "hydra", "matplotlib")
        print([name for name in heavy if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
