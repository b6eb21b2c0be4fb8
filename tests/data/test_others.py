"""A shipped network on images that are not MNIST's."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mnist_lit import MNIST
from mnist_lit.cli import main
from mnist_lit.data.reopen import reopen
from tests.conftest import write_idx


def test_a_shipped_network_is_measured_on_other_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_idx(tmp_path / "digits", classes=10, side=28, train=20, test=7)
    for unused in folder.glob("train-*"):
        unused.unlink()  # the two files of the split are enough
    main(["evaluate", "nano", "--images", str(folder), "--device", "cpu"])
    said = capsys.readouterr().out
    assert re.search(rf"^nano on {folder}, test images, cpu$", said, re.M)
    assert re.search(r"^Accuracy: \d of 7 \(", said, re.M)
    main(["evaluate", "nano", "--images", str(folder), "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["data"], found["total"]) == (str(folder), 7)
    # MNIST's own folder is still checked by its checksums.
    with pytest.raises(SystemExit, match="is damaged, or not MNIST's"):
        main(["evaluate", "nano", "--data-root", str(folder), "--device", "cpu"])
    with pytest.raises(
        SystemExit, match=r"train-images-idx3-ubyte\.gz is missing.*--images FOLDER"
    ):
        main(["evaluate", "nano", "--images", str(folder), "--split", "train", "--device", "cpu"])


def test_other_images_have_the_networks_side_and_no_more_classes(tmp_path: Path) -> None:
    for classes, side in ((12, 28), (10, 20)):
        folder = write_idx(tmp_path / f"{classes}-{side}", classes, side, train=20, test=24)
        words = f"^error: mnist: .* 28 pixels .* and 10 classes; .* {side} pixels and {classes} cla"
        with pytest.raises(SystemExit, match=words):
            main(["evaluate", "nano", "--images", str(folder), "--device", "cpu"])


def test_images_and_data_root_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "nano", "--images", "a", "--data-root", "b"])
    assert stop.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["mydata.Digits;touch${IFS}x", ["a"], {"a": 1}, "a" * 500])
def test_what_a_checkpoint_calls_its_data_is_a_name(target: object) -> None:
    with pytest.raises(ValueError, match=r"source\._target_=.*: (String )?should"):
        reopen(replace(MNIST, source={"_target_": target}), trust=["a"])
