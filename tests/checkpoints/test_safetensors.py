"""Networks as safetensors: writing, reading as checkpoints, and hostile files."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from mnist_lit import MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import METADATA, Trained, build_network, read
from mnist_lit.cli import main
from mnist_lit.errors import CheckpointError, TrustError
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.export.run import export
from mnist_lit.facts import MNIST
from mnist_lit.training.classifier import LitClassifier
from mnist_lit.training.resume import start_from
from tests.conftest import PROJECT

NANO = pretrained.load("nano")


class Tied(nn.Module):
    """A user's network with layers that share their weights."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.one = self.two = nn.Linear(784, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.one(images.flatten(1)) + self.two(images.flatten(1))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shared") / "nano.safetensors"
    export(NANO, "safetensors", file)
    return file


@pytest.mark.usefixtures("few_images")
def test_every_command_takes_the_file_as_the_checkpoint_that_it_was_made_of(
    shared: Path, tmp_path: Path, mnist: MNISTDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "digit.png"
    Image.fromarray(255 - mnist.test.images[0, 0].numpy()).resize((112, 112)).save(picture)
    first = mnist.test.subset(torch.arange(1000))
    right = evaluate(NANO.network, first).correct
    for command, words in (
        (["evaluate", "MODEL", "--device", "cpu"], f"Accuracy: {right} of 1,000"),
        (["predict", "MODEL", str(picture), "--device", "cpu"], "digit.png  7 ("),
        (["report", "MODEL", "--output", str(tmp_path / "page.html")], "page.html"),
        (
            ["export", "MODEL", "--to", "safetensors", "--output", str(tmp_path / "again")],
            f"{right}",
        ),
    ):
        main([str(shared) if word == "MODEL" else word for word in command])
        assert words in capsys.readouterr().out
    assert (tmp_path / "again").read_bytes() == shared.read_bytes()
    trained, state = read(shared), NANO.network.state_dict()
    assert trained.facts == NANO.facts
    assert trained.network.description == NANO.network.description
    assert all(torch.equal(tensor, state[k]) for k, tensor in trained.network.state_dict().items())
    assert "left as drawn" not in start_from(str(shared), pretrained.load_pretrained("nano"))
    assert isinstance(LitClassifier.load_from_checkpoint(shared), LitClassifier)


def test_the_package_alone_reads_it_as_the_page_shows(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (PROJECT / "docs" / "extend.md").read_text("utf-8")
    (lines,) = re.findall(r"^```python\n(import json\n.*?)^```", page, re.M | re.S)
    assert "mnist_lit" not in lines
    assert len(re.findall(r"^(?!import|from).", lines, re.M)) == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(shared.read_bytes())
    found: dict[str, Any] = {}
    exec(lines, found)
    state = NANO.network.state_dict()
    assert found["weights"].keys() == state.keys()
    assert all(torch.equal(torch.from_numpy(found["weights"][k]), state[k]) for k in state)
    assert found["about"]["facts"] == {**MNIST.plain(), **NANO.facts.plain()}
    assert found["about"]["network"] == NANO.network.description


def test_a_class_of_the_users_is_imported_only_if_it_is_trusted(tmp_path: Path) -> None:
    target, file = f"{__name__}.Tied", tmp_path / "tied.safetensors"
    network = build_network({"_target_": target, "classes": 10}, trust=[target])
    export(Trained(network, MNIST), "safetensors", file)
    with pytest.raises(TrustError, match=r"tied\.safetensors: its network's class .*Tied is not"):
        read(file)
    again = read(file, trust=[target]).network
    assert torch.equal(again(torch.ones(1, 1, 28, 28)), network(torch.ones(1, 1, 28, 28)))


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, t: a["facts"].update(name="a\x1b[31m"), "facts.name=.*should match"),
        (lambda a, t: a["facts"].update(std=float("nan")), "facts.std=nan"),
        (lambda a, t: a["facts"].update(side=10**9), "facts.side"),
        (lambda a, t: a["facts"].update(mean=10**300), "facts.mean=1000"),
        (lambda a, t: a["network"].update(_target_="os.system"), "its network's class os.system"),
        (lambda a, t: a["network"].update(side=10**6), "model.side=1000000"),
        (lambda a, t: a["network"]["blocks"][0].update(channels=10**8), "channels=100000000"),
        (lambda a, t: a["network"].update(classes=7), "not one that"),
        (lambda a, t: a.pop("network"), "not one that"),
        (lambda a, t: t["linear.bias"].fill_(torch.nan), "10 of its 10 weights are not a number"),
        (lambda a, t: t.update({"linear.bias": torch.zeros(11)}), "not one that"),
        (lambda a, t: t.pop("linear.bias"), "not one that"),
    ],
)
def test_it_is_held_to_what_a_checkpoint_is_held_to(
    change: Change, words: str, shared: Path, tmp_path: Path
) -> None:
    tensors, file = load_file(shared), tmp_path / "strange.safetensors"
    about = {"network": json.loads(json.dumps(NANO.network.description))}
    about["facts"] = NANO.facts.plain()
    change(about, tensors)
    save_file(tensors, file, {METADATA: json.dumps(about)})
    with pytest.raises(CheckpointError, match=words) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_swelling_file_is_a_line(shared: Path, tmp_path: Path) -> None:
    whole, file = shared.read_bytes(), tmp_path / "bad.safetensors"
    tensor = {"dtype": "F32", "shape": [10**5, 10**5], "data_offsets": [0, 4]}

    def made(header: bytes, rest: bytes = bytes(4)) -> bytes:
        return struct.pack("<Q", len(header)) + header + rest

    for content, words in (
        (whole[:-1], "truncated or damaged"),
        (whole + b"x", "truncated or damaged"),
        (whole[:100], "truncated or damaged"),
        (struct.pack("<Q", 2**40) + whole[8:], "truncated or damaged"),
        (struct.pack("<Q", 2**63) + b"{", "truncated or damaged"),
        (made(json.dumps({"a": tensor}).encode()), "truncated or damaged"),
        (made(b'{"a":' + b"[" * 100_000), "truncated or damaged"),
        (made(b'{"__metadata__": 5}'), "truncated or damaged"),
        (save({}, {METADATA: "[" * 100_000}), "truncated or damaged"),
        (save({}, {METADATA: "5"}), "not one that"),
        (save({}), "not one that"),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read(file)
