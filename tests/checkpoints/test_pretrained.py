import json
from pathlib import Path

import pytest
import torch

import mnist_lit
from mnist_lit import MNIST, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.cli import main
from mnist_lit.errors import CheckpointError
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.network.compact import count_parameters
from tests.conftest import PROJECT

RESULTS = PROJECT / "benchmarks" / "results" / "accuracy"

# The others in the slow tests: each takes one to three seconds.
AT_ONCE = ("final", "final-world", "nano")


def when(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in AT_ONCE else [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(one, marks=when(one)) for one in pretrained.names()])
def test_a_shipped_network_reads_exactly_the_digits_on_record(
    name: str, mnist: MNISTDataModule
) -> None:
    network, record = mnist_lit.load_pretrained(name), pretrained.record(name)
    assert evaluate(network, mnist.test).correct == record["test_correct"]
    assert count_parameters(network) == record["parameters"]
    assert pretrained.checkpoint_of(name).stat().st_size <= 120_000


@pytest.mark.parametrize("name", pretrained.names())
def test_a_shipped_network_is_seed_0_of_the_reported_runs(name: str) -> None:
    record = pretrained.record(name)
    reported = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["seeds"][0]
    assert record["seed"] == reported["seed"] == 0
    assert record["test_correct"] == round(10_000 * reported["last_val_accuracy"])


def test_final_comes_with_the_package() -> None:
    assert "final" in pretrained.names()


def test_a_shipped_network_is_ready_to_use(mnist: MNISTDataModule) -> None:
    network = mnist_lit.load_pretrained("final")
    with torch.no_grad():
        predictions = network(MNIST.normalize(mnist.test.images[:50])).argmax(dim=1)
    assert torch.equal(predictions, mnist.test.labels[:50])


def test_evaluate_takes_the_name_of_a_shipped_network(capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "final", "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "final"
    assert found["correct"] == pretrained.record("final")["test_correct"]


def test_a_file_of_that_name_in_the_way_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "final").write_text("not a checkpoint")
    assert pretrained.checkpoint_of("final").suffix == ".ckpt"


def test_an_unknown_name_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CheckpointError, match=r"finale: no such network; there are .*final"):
        mnist_lit.load_pretrained("finale")
    with pytest.raises(SystemExit, match=r"error: finale: no such network; there are .*final"):
        main(["evaluate", "finale"])
