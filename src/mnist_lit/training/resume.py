"""Initial weights from a checkpoint, and resuming a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mnist_lit.checkpoints.pretrained import checkpoint_of
from mnist_lit.checkpoints.read import read_file, weights
from mnist_lit.config.schema import Config
from mnist_lit.errors import CheckpointError
from mnist_lit.evaluation.provenance import flat


def start_from(model: str, network: nn.Module) -> str:
    """Copy tensors of the same name and shape into a network; returns a line about them.

    Args:
        model: A name of the package, a run's folder, or the path of a checkpoint or safetensors.
        network: The network that gets the weights.

    Raises:
        CheckpointError: There is no such checkpoint, or no tensor of it fits.
    """
    try:
        theirs = weights(read_file(checkpoint_of(model)))
    except (KeyError, TypeError, RuntimeError):
        raise CheckpointError(f"init_from={model}: not a checkpoint of this project") from None
    ours = network.state_dict()
    fitting = {}
    for name in theirs.keys() & ours.keys():
        one, other = theirs[name], ours[name]
        if one.shape == other.shape and one.is_floating_point() == other.is_floating_point():
            fitting[name] = one
    if not fitting:
        raise CheckpointError(f"init_from={model}: nothing of it fits this network")
    network.load_state_dict(fitting, strict=False)
    line = f"init_from={model}: {len(fitting)} of {len(ours)} tensors taken"
    left = [name for name in ours if name not in fitting]
    return f"{line}; left as drawn: {', '.join(left)}" if left else line


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
        for key in sorted({*there, *here})
        if here.get(key) != there.get(key)
    ]
    more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
    return f"{'; '.join(differ[:3])}{more}"


def resumed(ckpt_path: str, options: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """Return the checkpoint to resume from, and the runs of its loggers.

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
    before = content.get("options")
    if not isinstance(before, dict):
        words = "it holds no training to resume; init_from= takes the weights alone"
        raise CheckpointError(f"ckpt_path={checkpoint}: {words}")
    if words := differing(options, before):
        words += "; a run is resumed with the options and by the version that it was started with"
        raise CheckpointError(f"ckpt_path={checkpoint}: {words}")
    rows = content["callbacks"]["History"]["epochs"]
    best = checkpoint.with_name("best.ckpt")
    if any(row["val_loss"] is not None for row in rows) and not best.is_file():
        words = "a run is resumed from its last.ckpt with the best.ckpt beside it"
        raise CheckpointError(f"{best} is not there; {words}")
    return checkpoint, dict(content.get("loggers", {}))
