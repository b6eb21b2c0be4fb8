"""Initial weights from a checkpoint, and resuming a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mnist_lit.checkpoints.pretrained import checkpoint_of
from mnist_lit.checkpoints.read import read_file, weights
from mnist_lit.config.schema import Config
from mnist_lit.errors import CheckpointError, line
from mnist_lit.evaluation.history import History
from mnist_lit.evaluation.provenance import flat
from mnist_lit.validation import validated


def start_from(model: str, network: nn.Module) -> str:
    """Copy tensors of the same name and shape into a network; returns a line about them.

    Args:
        model: A name of the package, a run's folder, or the path of a checkpoint or safetensors.
        network: The network that gets the weights.

    Raises:
        CheckpointError: There is no such checkpoint, or no tensor of it fits.
    """

    def kind(tensor: Tensor) -> tuple[Any, bool]:
        return tensor.shape, tensor.is_floating_point()

    content, ours = read_file(checkpoint_of(model)), network.state_dict()
    try:
        theirs = weights(content).items()
        fitting = {
            name: one for name, one in theirs if name in ours and kind(one) == kind(ours[name])
        }
        network.load_state_dict(fitting, strict=False)
    except Exception as error:  # a state_dict may hold anything, and torch more kinds of tensors
        raise CheckpointError(f"init_from={model}: cannot be taken: {line(error)}") from None
    if not fitting:
        raise CheckpointError(f"init_from={model}: nothing of it fits this network")
    taken = f"init_from={model}: {len(fitting)} of {len(ours)} tensors taken"
    left = [name for name in ours if name not in fitting]
    return f"{taken}; left as drawn: {', '.join(left)}" if left else taken


def options_of(config: Config) -> dict[str, Any]:
    """Return the options that affect the result of a training, by keys as ``optimizer.lr``.

    A resumed run may have other loggers, another progress bar, budget, folder of images, batch size
    of validation and device; these options are left out.
    """
    free: Any = {
        **dict.fromkeys(("logger", "requirements", "ckpt_path", "run_dir", "recipe"), True),
        **dict.fromkeys(("optimized_metric", "test", "search"), True),
        "data": {"root", "eval_batch_size"},
        "callbacks": {"progress"},
        "trainer": {"accelerator", "profiler", "detect_anomaly", "deterministic"},
    }
    return flat(config.model_dump(exclude=free))


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return a message with the first three differing options; empty if there are none."""
    differ = [
        f"{key} is {here.get(key)} here and {there.get(key)} there"
        for key in sorted({*there, *here}, key=str)
        if here.get(key) != there.get(key)
    ]
    more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
    return f"{'; '.join(differ[:3])}{more}"


def resumed(ckpt_path: str, options: Mapping[str, Any]) -> tuple[Path, dict[str, str], int]:
    """Return the checkpoint to resume from, the runs of its loggers, and its number of epochs.

    Args:
        ckpt_path: The ``last.ckpt`` to resume from, or the folder of its run.
        options: The options of this run.

    Raises:
        CheckpointError: There is no checkpoint, it was trained with other options, or is no
            ``last.ckpt`` of a run.
    """
    path = Path(ckpt_path).expanduser()
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        words = "is not there; give the folder of a run, or its last.ckpt"
        raise CheckpointError(f"ckpt_path={ckpt_path} {words}")
    content = read_file(checkpoint)
    try:
        words = differing(options, content["options"])
        history = History.of(content)
        loggers: dict[str, str] = validated(dict[str, str], content.get("loggers", {}), "loggers")
    except Exception as error:  # an altered file raises whatever its first wrong part leads to
        raise altered(checkpoint, error) from None
    if words:
        words += "; a run is resumed with the options and by the version that it was started with"
        raise CheckpointError(f"ckpt_path={checkpoint}: {words}")
    best = checkpoint.with_name("best.ckpt")
    if history.validated and not best.is_file():
        words = "a run is resumed from its last.ckpt with the best.ckpt beside it"
        raise CheckpointError(f"{best} is not there; {words}")
    return checkpoint, loggers, len(history.epochs)


def altered(checkpoint: str | Path, error: Exception) -> CheckpointError:
    """Return the error of a file from which no training can be resumed."""
    words = f"it holds no training to resume ({line(error)}); init_from= takes the weights alone"
    return CheckpointError(f"ckpt_path={checkpoint}: {words}")
