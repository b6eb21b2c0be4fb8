"""The classifier with a Trainer of the user's own, without a run around it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mnist_lit import MNIST, MNISTDataModule, compose
from mnist_lit.checkpoints.read import read
from mnist_lit.config.check import parse
from mnist_lit.data.batches import Images
from mnist_lit.errors import CheckpointError, ConfigError, DataError
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.training.build import prepare
from mnist_lit.training.classifier import LitClassifier
from mnist_lit.training.train import train
from tests.conftest import TINY
from tests.own import Net, Stripes

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You called `self.log"),
]
SGD = partial(torch.optim.SGD, lr=0.1)
ONECYCLE = partial(torch.optim.lr_scheduler.OneCycleLR, pct_start=0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(compose(*TINY, f"run_dir={folder}")).run_dir / "checkpoints"


def trainer(**options: Any) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    limits = ("limit_val_batches", "limit_test_batches", "limit_predict_batches")
    return pl.Trainer(
        accelerator="cpu",
        **{**dict.fromkeys(quiet, False), **dict.fromkeys(limits, 1), **options},
    )


def by_hand(checkpoint: Path) -> LitClassifier:
    description = LitClassifier.load_from_checkpoint(checkpoint).network.description
    assert isinstance(description, dict)
    return LitClassifier(description, MNIST, optimizer=SGD, scheduler=ONECYCLE)


@pytest.mark.parametrize("make", [LitClassifier.load_from_checkpoint, by_hand])
def test_any_trainer_validates_tests_and_predicts_with_a_checkpoint(
    make: Callable[[Path], LitClassifier], run: Path, tiny: Any
) -> None:
    best, data = run / "best.ckpt", MNISTDataModule()
    trained = LitClassifier.load_from_checkpoint(best).network
    first = data.images("test").subset(torch.arange(1000))
    wanted = evaluate(trained, first)
    [found] = trainer().validate(make(best), data, ckpt_path=best, verbose=False)
    assert found["val/errors"] == 1000 - wanted.correct
    [found] = trainer().test(make(best), data, ckpt_path=best, verbose=False)
    assert found["test/accuracy"] == pytest.approx(wanted.accuracy)
    predicted = trainer().predict(make(best), data, ckpt_path=best)
    assert predicted is not None
    torch.testing.assert_close(predicted[0], wanted.probabilities, rtol=1e-4, atol=1e-5)
    parts = prepare(parse(tiny(run_dir="other")))
    [found] = parts.trainer.validate(parts.module, data, ckpt_path=best, verbose=False)
    assert found["val/errors"] == 1000 - wanted.correct
    assert not Path(tiny(run_dir="other").run_dir).exists()


def test_fit_resumes_a_training_of_the_same_length_alone(run: Path) -> None:
    last, data = run / "last.ckpt", MNISTDataModule(train_size=320, batch_size=64)
    resumed = trainer(max_epochs=2)
    resumed.fit(by_hand(last), data, ckpt_path=last)
    assert resumed.global_step == 10
    with pytest.raises(CheckpointError, match="a training of 10 steps, this one has 15"):
        trainer(max_epochs=3).fit(by_hand(last), data, ckpt_path=last)


def test_images_without_labels_are_predicted(run: Path, mnist: MNISTDataModule) -> None:
    classifier = LitClassifier.load_from_checkpoint(run / "best.ckpt")
    images = mnist.test.images[:8]
    sets: tuple[Any, ...] = (TensorDataset(images, mnist.test.labels[:8]), TensorDataset(images))
    answers: list[Any] = [trainer().predict(classifier, DataLoader(d, 8)) for d in (*sets, images)]
    for answer in answers:
        assert torch.equal(answer[0], classifier(MNIST.normalize(images)).softmax(dim=1))
    loader: Any = DataLoader(images.float() / 255, 8)  # type: ignore[arg-type]  # a tensor is one
    with pytest.raises(DataError, match=r"batches of torch.float32 .*28\]; .* are expected$"):
        trainer().predict(classifier, loader)
    with pytest.raises(DataError, match=r"batches of torch.uint8 .* are expected with labels$"):
        trainer().test(classifier, DataLoader(sets[1], 8))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*LightningModule.to_torchscript")
def test_lightnings_own_exports_take_normalised_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    classifier = LitClassifier.load_from_checkpoint(run / "best.ckpt")
    given = torch.rand(1, 1, 28, 28)
    wanted = classifier(given).detach()
    # Shapes are not numbers while torch traces: they cannot be checked against the annotations.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    traced: Any = classifier.to_torchscript(
        method="trace", example_inputs=torch.zeros(1, 1, 28, 28)
    )
    torch.testing.assert_close(traced(given), wanted)
    # A trainer that has run stays attached.
    trainer().predict(classifier, DataLoader(TensorDataset(torch.zeros(1, 1, 28, 28).byte())))
    file = tmp_path / "network.onnx"
    classifier.to_onnx(file, torch.zeros(1, 1, 28, 28))
    session = runtime.InferenceSession(file)
    [answer] = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), wanted, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_loaded_to_be_trained_on(run: Path) -> None:
    load, best = LitClassifier.load_from_checkpoint, run / "best.ckpt"
    data = MNISTDataModule(train_size=320, batch_size=64)
    with pytest.raises(ConfigError, match="training needs one; make or load LitClassifier with"):
        trainer(max_epochs=1).fit(load(best), data)
    classifier = load(best, strict=True, optimizer=SGD, seed=3)
    before = classifier.network.state_dict()["linear.weight"].clone()
    trainer(max_epochs=1).fit(classifier, data)
    assert classifier.seed == 3
    assert classifier.network.training, "norms and dropout as in training"
    assert not torch.equal(classifier.network.state_dict()["linear.weight"], before)


@pytest.mark.parametrize("option", [{"network": {"channels": 3}}, {"facts": MNIST}])
def test_what_the_checkpoint_says_cannot_be_overruled(option: dict[str, Any], run: Path) -> None:
    with pytest.raises(TypeError, match=f"multiple values for argument '{next(iter(option))}'"):
        LitClassifier.load_from_checkpoint(run / "best.ckpt", **option)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def test_no_option_lets_a_checkpoint_run_code(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "best.ckpt", weights_only=True)
    torch.save({**content, "trap": Trap()}, tmp_path / "trap.ckpt")
    for checkpoint, failure in (("trap.ckpt", "contains Python objects"), ("gone", "is not there")):
        with pytest.raises(CheckpointError, match=failure):
            LitClassifier.load_from_checkpoint(tmp_path / checkpoint, weights_only=False)
    loaded = LitClassifier.load_from_checkpoint(run / "best.ckpt", hparams_file="gone.yaml")
    assert loaded.network.state_dict().keys() == read(run / "best.ckpt").network.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
def test_only_whole_numbers_are_normalised(dtype: torch.dtype) -> None:
    pixels = torch.full((2, 1, 28, 28), 255)
    for whole in (torch.uint8, torch.int16, torch.int32, torch.int64):
        assert torch.all(MNIST.normalize(pixels.to(whole)) > 2.8)
    with pytest.raises(DataError, match=f"^mnist: {dtype} images; give whole numbers of 0 to 255"):
        MNIST.normalize(pixels.to(dtype))
    with pytest.raises(DataError, match="give whole numbers"):
        MNIST.normalize(MNIST.normalize(pixels))


class Labelled(Stripes):
    """The stripes with the labels of the test."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        images = torch.zeros(len(labels), 1, 16, 16, dtype=torch.uint8)
        self.loaded = DataLoader(TensorDataset(images, labels), batch_size=16)

    def loader(self) -> DataLoader[Any]:
        return self.loaded

    train_dataloader = val_dataloader = test_dataloader = loader


RIGHT = torch.arange(64) % 2
LATE = RIGHT.clone()
LATE[50] = 2  # in the fourth batch


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (RIGHT.float(), r"torch.float32 \[16\] from 0.0 to 1.0"),
        (RIGHT.int(), r"torch.int32 \[16\] from 0 to 1"),
        (RIGHT + 1, r"torch.int64 \[16\] from 1 to 2"),
        (RIGHT - 1, r"torch.int64 \[16\] from -1 to 0"),
        (RIGHT - 100, r"torch.int64 \[16\] from -100 to -99"),
        (RIGHT[:, None], r"torch.int64 \[16, 1\] from 0 to 1"),
        (F.one_hot(RIGHT).float(), r"torch.float32 \[16, 2\] from 0.0 to 1.0"),
        (LATE, r"torch.int64 \[16\] from 0 to 2"),
    ],
    ids=["float", "int32", "from 1", "negative", "ignored", "column", "one-hot", "late"],
)
def test_labels_that_are_no_classes_are_refused_in_a_line(labels: Tensor, found: str) -> None:
    words = rf"^stripes: labels of {found}; int64 \[B\] of 0 to 1 is .* classes upright, level$"
    for stage in ("fit", "validate", "test"):
        classifier = LitClassifier(network(), Stripes.facts, optimizer=SGD)
        whole = trainer(max_epochs=1, limit_val_batches=None, limit_test_batches=None)
        with pytest.raises(DataError, match=words):
            getattr(whole, stage)(classifier, Labelled(labels))
    images = Images(torch.zeros(64, 1, 16, 16, dtype=torch.uint8), RIGHT)
    images.labels = labels
    with pytest.raises(DataError, match=words.replace(r"\[16", r"\[64")):
        evaluate(network(), images, Stripes.facts)


def test_labels_in_bytes_are_taken() -> None:
    classifier = LitClassifier(network(), Stripes.facts, optimizer=SGD)
    trainer(max_epochs=1).fit(classifier, Labelled(RIGHT.byte()))


def network() -> Net:
    net = Net(classes=2, side=16)
    # The project sets this on networks that it builds itself.
    net.description = {"classes": 2, "side": 16}  # type: ignore[assignment]
    return net
