"""What a run may say: the keys of ours with their types, and the bounds of every number."""

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

Node = dict[str, Any]  # a `_target_` and arguments, which mnist_lit.targets checks


class Keys(BaseModel):
    """Keys of ours: no others, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Scheduler(Keys):
    interval: Literal["step", "epoch"]
    build: Node


class _Trainer(Keys):
    model_config = ConfigDict(extra="allow")  # any argument of Lightning's
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


class Search(Keys):
    """A search for the best settings, and which of its trainings this is."""

    study: str
    storage: str
    n_trials: int
    timeout: int | None
    repeats: int
    over: str
    pruner: Literal["median", "hyperband", "none"]
    params: dict[str, Any]
    trial: int | None
    earlier: list[float]


class Config(Keys):
    """A whole run, as ``conf/config.yaml`` composes it."""

    model: Node
    optimizer: Node
    scheduler: _Scheduler
    loss: Node
    metrics: dict[str, Node]
    data: Node
    augmentation: list[Node]
    trainer: _Trainer
    callbacks: dict[str, Node]
    logger: dict[str, Node]
    requirements: Requirements
    recipe: dict[str, Node]
    seed: int
    compile: str | None
    init_from: str | None
    ckpt_path: str | None
    run_dir: str
    optimized_metric: str
    test: bool
    search: Search | None


_fields = {f.name: (f.type, ... if f.default is MISSING else f.default) for f in fields(Block)}
_Block = create_model(  # type: ignore[call-overload]  # mypy wants the fields written out
    "_Block", __base__=Keys, **_fields
)


class _Compact(Keys):
    name: str
    blocks: list[_Block]  # type: ignore[valid-type]  # mypy does not follow create_model
    dropout: float
    align: bool = False


class _Folder(Keys):
    root: str | None
    validation: Literal["test", "holdout"]
    batch_size: int
    eval_batch_size: int
    train_size: int | None
    split_seed: int
    folds: int | None
    fold: int | None


class _Mnist(_Folder):
    drawn: float


class _Idx(_Folder):
    root: str
    classes: list[str] | None
    name: str | None
    centred: bool


# The targets whose arguments are keys of ours; a mistake in them is found without torch.
OURS: dict[str, type[Keys]] = {COMPACT: _Compact, MNIST: _Mnist, IDX: _Idx}


def _test(words: str, test: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise PydanticCustomError("bound", "Input should be " + words)
        return value

    return AfterValidator(check)


Above0, From0 = Annotated[FiniteFloat, Gt(0)], Annotated[FiniteFloat, Ge(0)]
Name = Annotated[str, _test("a name", lambda v: v.strip())]
Count = Annotated[int, Ge(1), Lt(2**53)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Odd = Annotated[int, Ge(1), _test("odd", lambda v: v % 2)]
Batches = Annotated[
    int | float,
    _test(
        "a number of batches, 1 or above, or a share of them above 0.0 and up to 1.0",
        lambda v: v >= 1 if type(v) is int else 0 < v <= 1,
    ),
]
Processes = Annotated[
    int | str | list[int],
    _test("a number up to 1024", lambda v: not str(v).isdecimal() or int(v) <= 1024),
]
# By the name of a key or argument, wherever it stands; `group.name` where a group has its own.
# Torch and Lightning take many impossible values without a word.
BOUNDS = {
    name: TypeAdapter[Any](cast(Any, allowed), config=ConfigDict(strict=True))
    for allowed, names in (
        (Annotated[FiniteFloat, Gt(0), Le(1000)], "lr max_lr"),
        (Above0, "eps gamma div_factor final_div_factor gradient_clip_val"),
        (Annotated[FiniteFloat, Ge(0), Le(1000)], "weight_decay"),
        (From0, "eta_min threshold min_lr min_delta"),
        (Annotated[float, Ge(0), Le(10)], "shear augmentation.gamma"),
        (Fraction, "momentum base_momentum max_momentum dampening alpha rho decay start dropout"),
        (Fraction, "scale bend label_smoothing"),
        (list[Fraction], "betas"),
        (Annotated[float, Ge(0), Le(1)], "min_val_accuracy factor start_factor end_factor drawn"),
        (Annotated[float, Gt(0), Lt(1)], "pct_start"),
        (Annotated[float, Gt(0), Le(1)], "end"),
        (Annotated[float, Ge(0), Le(180)], "degrees"),
        (Annotated[float, Ge(0), Le(14)], "translate"),
        (Count, "channels repeats batch_size eval_batch_size train_size max_epochs step_size"),
        (Count, "n_trials timeout search.repeats"),
        (Count, "max_parameters accumulate_grad_batches check_val_every_n_epoch"),
        (Annotated[int, Ge(0), Lt(2**53)], "patience cooldown total_iters"),
        (Annotated[int, Ge(0), Lt(2**32)], "seed split_seed data.fold"),
        (Annotated[int, Ge(2), Le(1000)], "data.folds"),
        (Odd, "kernel"),
        (Processes, "devices num_nodes"),
        (Batches, "limit_train_batches limit_val_batches"),
        (Literal["none", "after_conv", "after_activation"], "pool"),
        (Literal["cos", "linear"], "anneal_strategy"),
        (Literal["auto", "cpu", "gpu", "cuda", "mps"], "accelerator"),
        (Literal["auto", "32-true", "bf16-mixed", "16-mixed"], "precision"),
        (Literal["auto", "ddp"], "strategy"),
        (bool, "requirements.dropout"),
        (bool | Literal["warn"], "deterministic"),
        (
            Name,
            "model.name data.name data.root run_dir monitor project experiment_name tracking_uri",
        ),
        (str, "save_dir logger.name"),
        (Annotated[int, Ge(0)] | str, "logger.version"),
        (Literal["default", "reduce-overhead", "max-autotune"], "compile"),
    )
    for name in names.split()
}
