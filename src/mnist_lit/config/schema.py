"""What a run may say: the keys of ours with their types, and the bounds of every number.

YAML files hold the values, this file what is allowed. Nothing heavy is imported, so that a mistake
in a key of ours is reported before torch is loaded.
"""

from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, TypeAdapter, create_model
from pydantic_core import PydanticCustomError

from mnist_lit.network.blocks import Block

COMPACT = "mnist_lit.network.compact.CompactCNN"
MNIST = "mnist_lit.data.mnist.MNISTDataModule"
IDX = "mnist_lit.data.idx.IdxDataModule"
OBJECTIVES = ("best_val_accuracy", "last_val_accuracy", "test_accuracy", "best_val_loss")

# Has a `_target_`; its other keys are arguments, which `targets` holds against the signature.
Node = dict[str, Any]


class Keys(BaseModel):
    """Keys of ours: no others, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Scheduler(Keys):
    """How the learning rate moves: a scheduler to build and when to step it."""

    interval: Literal["step", "epoch"]
    build: Node


class Trainer(Keys):
    """What is passed to :class:`pytorch_lightning.Trainer`, of which any argument may be given."""

    model_config = ConfigDict(extra="allow")

    accelerator: str
    precision: str
    max_epochs: int


class Requirements(Keys):
    """The budget that a run is checked against."""

    min_val_accuracy: float | None
    max_parameters: int
    max_epochs: int
    batch_norm: bool
    dropout: bool
    fully_connected: bool
    enforce: bool


class Config(Keys):
    """A whole run, as ``conf/config.yaml`` composes it."""

    model: Node
    optimizer: Node
    scheduler: Scheduler
    loss: Node
    metrics: dict[str, Node]
    data: Node
    augmentation: list[Node]
    trainer: Trainer
    callbacks: dict[str, Node]
    logger: dict[str, Node]
    requirements: Requirements
    seed: int
    compile: str | None
    init_from: str | None
    ckpt_path: str | None
    run_dir: str
    optimized_metric: str


# The fields of the dataclass, as keys.
BlockKeys = create_model(  # type: ignore[call-overload]
    "BlockKeys",
    __base__=Keys,
    **{f.name: (f.type, ... if f.default is MISSING else f.default) for f in fields(Block)},
)


class Compact(Keys):
    """A variant of the compact network: its blocks, then the dropout before the linear layer."""

    name: str
    blocks: list[BlockKeys]  # type: ignore[valid-type]  # mypy does not follow create_model
    dropout: float


class Mnist(Keys):
    """MNIST, and what picks the best epoch."""

    root: str | None
    validation: Literal["test", "holdout"]
    batch_size: int
    eval_batch_size: int
    train_size: int | None
    split_seed: int


class Idx(Mnist):
    """A folder of one's own in MNIST's layout."""

    root: str
    classes: list[str] | None
    name: str | None
    centred: bool


# The targets whose arguments are keys of ours; a mistake in them is found without torch.
OURS: dict[str, type[Keys]] = {COMPACT: Compact, MNIST: Mnist, IDX: Idx}


def _test(words: str, test: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise PydanticCustomError("bound", "Input should be " + words)
        return value

    return AfterValidator(check)


Fraction = Annotated[float, Ge(0), Lt(1)]
Odd = Annotated[int, Ge(1), _test("odd", lambda v: v % 2)]
Batches = Annotated[
    int | float,
    _test(
        "a number of batches, 1 or above, or a share of them above 0.0 and up to 1.0",
        lambda v: v >= 1 if type(v) is int else 0 < v <= 1,
    ),
]
# By the name of a key or argument, wherever it stands; `group.name` where a group has its own.
# Torch and Lightning take many impossible values without a word.
BOUNDS = {
    name: TypeAdapter[Any](cast(Any, allowed), config=ConfigDict(strict=True))
    for allowed, names in (
        (Annotated[FiniteFloat, Gt(0)], "lr max_lr eps gamma div_factor final_div_factor"),
        (Annotated[FiniteFloat, Gt(0)], "gradient_clip_val"),
        (Annotated[FiniteFloat, Ge(0)], "weight_decay eta_min threshold min_lr min_delta"),
        (Annotated[FiniteFloat, Ge(0)], "shear augmentation.gamma"),
        (Fraction, "momentum base_momentum max_momentum dampening alpha rho decay start"),
        (Fraction, "dropout scale bend label_smoothing"),
        (list[Fraction], "betas"),
        (Annotated[float, Ge(0), Le(1)], "min_val_accuracy factor start_factor end_factor"),
        (Annotated[float, Gt(0), Lt(1)], "pct_start"),
        (Annotated[float, Gt(0), Le(1)], "end"),
        (Annotated[float, Ge(0), Le(180)], "degrees"),
        (Annotated[float, Ge(0), Le(14)], "translate"),
        (Annotated[int, Ge(1), Lt(2**53)], "channels repeats batch_size eval_batch_size"),
        (Annotated[int, Ge(1), Lt(2**53)], "train_size max_epochs max_parameters step_size"),
        (Annotated[int, Ge(1), Lt(2**53)], "accumulate_grad_batches check_val_every_n_epoch"),
        (Annotated[int, Ge(0), Lt(2**53)], "patience cooldown total_iters"),
        (Annotated[int, Ge(0), Lt(2**32)], "seed split_seed"),
        (Odd, "kernel"),
        (Batches, "limit_train_batches limit_val_batches"),
        (Literal["none", "after_conv", "after_activation"], "pool"),
        (Literal["cos", "linear"], "anneal_strategy"),
        (Literal["auto", "cpu", "gpu", "cuda", "mps"], "accelerator"),
        (Literal["auto", "32-true", "64-true", "bf16-mixed", "16-mixed"], "precision"),
        (Literal["default", "reduce-overhead", "max-autotune"], "compile"),
    )
    for name in names.split()
}
