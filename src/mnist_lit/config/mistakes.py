"""Messages of Hydra about a user's mistake, rewritten as one line each."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError
from yaml import MarkedYAMLError

from mnist_lit.errors import ConfigError, reason, unknown

# The key to use instead of a short name, or of an argument of Lightning's Trainer that a run sets
# itself.
INSTEAD = {
    name: meant
    for meant, names in {
        "optimizer.lr": "lr learning_rate",
        "optimizer.weight_decay": "weight_decay wd",
        "trainer.max_epochs": "epochs max_epochs trainer.max_steps trainer.min_steps "
        "trainer.min_epochs trainer.max_time",
        "trainer.accelerator": "device accelerator",
        "trainer.devices": "devices gpus",
        "trainer.precision": "precision",
        "trainer.check_val_every_n_epoch": "trainer.val_check_interval",
        "trainer=debug": "trainer.fast_dev_run trainer.num_sanity_val_steps",
        "data.batch_size": "batch_size bs",
        "data.root": "root data_root",
        "data.train_size": "train_size trainer.overfit_batches",
        "model.dropout": "dropout",
        "loss.label_smoothing": "label_smoothing",
        "ckpt_path": "resume checkpoint",
        "hydra.run.dir": "trainer.default_root_dir",
        "logger=csv, tensorboard … or none": "trainer.logger",
        "callbacks.NAME._target_": "trainer.callbacks",
        "callbacks=none and logger=none": "trainer.barebones trainer.enable_progress_bar "
        "trainer.enable_model_summary",
        "nothing, because checkpoints and the report depend on it": "trainer.enable_checkpointing "
        "trainer.log_every_n_steps trainer.limit_test_batches trainer.limit_predict_batches "
        "trainer.plugins trainer.use_distributed_sampler trainer.reload_dataloaders_every_n_epochs",
    }.items()
    for name in names.split()
}


OPTIONS = [  # of Hydra's command line
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run"),
    *("--multirun", "--shell-completion", "--config-path", "--config-name", "--config-dir"),
    *("--experimental-rerun", "--info"),
]


def refuse_options(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for an option that Hydra does not have, as ``--lr 0.1``."""
    for position, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option.startswith("--") and option not in OPTIONS:
            if get_close_matches(option, OPTIONS, n=1, cutoff=0.8):
                raise ConfigError(unknown(option, OPTIONS, "option"))
            name = option.lstrip("-").replace("-", "_")
            meant = f"{INSTEAD.get(name, name)}={value or (*arguments[position + 1 :], '…')[0]}"
            raise ConfigError(f"{option}: no such option; settings are given as key=value: {meant}")


def explain(error: Exception) -> str:
    """Return one line for an exception of Hydra, OmegaConf or YAML."""
    text = str(error)
    cause = error.__cause__ or error
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.full_key:
        if cause.full_key in INSTEAD:
            return f"{cause.full_key}: no such key; did you mean {INSTEAD[cause.full_key]}?"
        known = map(str, cause.parent_node if isinstance(cause.parent_node, DictConfig) else ())
        return unknown(cause.full_key, [k for k in known if not k.startswith(("_", "hydra"))])
    if missing := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        options = text.partition("Available options")[2].partition("\n")[2].partition("Config")[0]
        choices = options.split() or ["see python train.py --help"]
        return unknown("=".join(missing.groups()), choices, "choice")
    if isinstance(error, OverrideParseException):
        hint = "a value with = , ' ( [ { or a letter beyond ASCII needs quotes: 'key=\"value\"'"
        if "[" in error.override.partition("=")[0]:
            hint = "an item of a list is given as model.blocks.0.channels=8"
        return f"{error.override}: cannot be read as key=value; {hint}"
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: not YAML: {error.problem}"
    said = " ".join(text.partition("See https")[0].split())
    key = getattr(cause, "full_key", None) or "a key"
    return said or f"a YAML file cannot be composed: {key}: {reason(cause)}"
