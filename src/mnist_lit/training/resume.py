"""Weights and trainings that a run takes over from another."""

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
    """Copy into a network what a trained one has of the same name and shape; returns a line on it.

    Args:
        model: A name of the package, a run's folder, or the path of a checkpoint or safetensors.
        network: Gets the weights.

    Raises:
        CheckpointError: There is no such checkpoint, or nothing of it fits.
    """
    try:
        theirs = weights(read_file(checkpoint_of(model)))
    except (KeyError, TypeError, RuntimeError):
        raise CheckpointError(f"init_from={model}: not a checkpoint of this project") from None
    ours = network.state_dict()
    fitting = {
        k: v
        for k, v in theirs.items()
        if k in ours
        and v.shape == ours[k].shape
        and v.is_floating_point() == ours[k].is_floating_point()
    }
    if not fitting:
        raise CheckpointError(f"init_from={model}: nothing of it fits this network")
    network.load_state_dict(fitting, strict=False)
    left = [
        f"{name} ({'×'.join(map(str, theirs[name].shape))}, here {'×'.join(map(str, v.shape))})"
        if name in theirs
        else f"{name} (not there)"
        for name, v in ours.items()
        if name not in fitting
    ]
    line = f"init_from={model}: {len(fitting)} of {len(ours)} tensors taken"
    return f"{line}; left as drawn: {', '.join(left)}" if left else line


def options_of(config: Config) -> dict[str, Any]:
    """Return what decides the course of a training, by keys as ``optimizer.lr``.

    Loggers, the progress bar, the budget, where the images lie, how many are validated at a time
    and what it is computed on may differ when a run is resumed; they are left out.
    """
    plain = config.model_dump()
    for key in ("logger", "requirements", "ckpt_path", "run_dir", "optimized_metric", "recipe"):
        del plain[key]
    del plain["test"], plain["search"]
    free = {
        "data": ("root", "eval_batch_size"),
        "callbacks": ("progress",),
        "trainer": ("accelerator", "profiler", "detect_anomaly", "deterministic"),
    }
    for group, keys in free.items():
        plain[group] = {key: value for key, value in plain[group].items() if key not in keys}
    return flat(plain)


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Say in which options two trainings differ, the first three of them; nothing if in none."""
    differ = [
        f"{key} is {here.get(key)} here and {there.get(key)} there"
        for key in sorted({*there, *here})
        if here.get(key) != there.get(key)
    ]
    more = f", and {len(differ) - 3} more" if len(differ) > 3 else ""
    return f"{'; '.join(differ[:3])}{more}"


def last_of(ckpt_path: str) -> Path:
    """Return the checkpoint to resume from: a file, or that of a run's folder.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(ckpt_path).expanduser()
    last = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not last.is_file():
        raise CheckpointError(
            f"ckpt_path={ckpt_path} is not there; give the folder of a run, or its last.ckpt"
        )
    return last


def check_resumable(checkpoint: Path, options: Mapping[str, Any]) -> dict[str, str]:
    """See that a training goes on as it began; returns the runs of its loggers.

    Args:
        checkpoint: The ``last.ckpt`` to resume from.
        options: Of the run that resumes it.

    Raises:
        CheckpointError: It was trained with other options, or is no ``last.ckpt`` of a run.
    """
    content = read_file(checkpoint)
    before = content.get("options")
    if not isinstance(before, dict):
        raise CheckpointError(
            f"ckpt_path={checkpoint}: it holds no training to resume; give the folder of a run of "
            "this version, or its last.ckpt (init_from= takes the weights alone)"
        )
    if words := differing(options, before):
        raise CheckpointError(
            f"ckpt_path={checkpoint}: {words}; a run is resumed with the options and by the "
            "version that it was started with"
        )
    rows = content["callbacks"]["History"]["epochs"]
    best = checkpoint.with_name("best.ckpt")
    if any(row["val_loss"] is not None for row in rows) and not best.is_file():
        raise CheckpointError(
            f"{best} is not there; a run is resumed from its last.ckpt with the best.ckpt beside it"
        )
    return dict(content.get("loggers", {}))
