"""The keys of a config that this project defines, with their types and bounds."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mnist_lit.validation import Name, Positive, Seed, Share, Switch

OBJECTIVES = ("best_val_accuracy", "last_val_accuracy", "test_accuracy", "best_val_loss")

Node = dict[str, Any]  # a `_target_` and arguments, which mnist_lit.targets checks


class Keys(BaseModel):
    """The base of the models below: no unknown keys, and no conversion of values."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Requirements(Keys):
    """The budget that a run is checked against."""

    min_val_accuracy: Share | None
    max_parameters: Positive
    max_epochs: Positive
    batch_norm: Switch
    dropout: Switch
    fully_connected: Switch
    enforce: Switch


class Search(Keys):
    """A search for the best settings."""

    study: str
    storage: str
    n_trials: Positive
    timeout: Positive | None
    repeats: Positive
    over: str
    pruner: Literal["median", "hyperband", "none"]
    params: dict[str, Any]


class Config(Keys):
    """The config of a run, as composed from ``conf/config.yaml``."""

    model: Node
    module: Node
    optimizer: Node
    scheduler: Node
    loss: Node
    metrics: dict[str, Node]
    data: Node
    augmentation: dict[str, Node]
    trainer: Node
    callbacks: dict[str, Node]
    logger: dict[str, Node]
    requirements: Requirements
    recipe: dict[str, Node]
    seed: Seed
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None
    init_from: str | None
    ckpt_path: str | None
    run_dir: Name
    optimized_metric: str
    test: Switch
    search: Search | None

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.model.get("name", self.model["_target_"].rpartition(".")[2]))
