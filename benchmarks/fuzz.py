"""Nonsense for every key of a config: how many overrides end in a traceback, or in many lines.

python benchmarks/fuzz.py --trials 3000 --seed 0     # results/fuzz.json

Each trial is composed and checked in this process as by ``python train.py``, and all parts of the
run are built; no image is read and nothing is trained. Accepted overrides are listed, so that a
person can check that each of them can be trained.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf
from torch import nn
from tqdm import tqdm

from mnist_lit import compose, folders
from mnist_lit.training import hydra

RESULTS = Path(__file__).with_name("results") / "fuzz.json"
NONSENSE = (
    *("null", "1", "0", "-1", "0.5", "1.5", "-0.5", "1e308", "-1e308", "1e-308", "nan", "inf"),
    *("100000000000000000000", "2147483648", "true", "false", "''", "x", "auto", "[]", "[1]"),
    *("[a,b]", "{}", "{a: 1}", "'[1,[2]]'", "${nothing}", "${hydra:job.num}", "ü", "' '", "a/b"),
)

# Odd but legal: each must be accepted. Spaces separate the overrides of one command.
ODD = "{_target_: fuzz.Odd"
LEGAL = (
    *("optimizer.lr=1e-8", "optimizer.lr=1000", "optimizer.lr=1", "+optimizer.maximize=true"),
    *("optimizer.maximize=true", "optimizer.momentum=0.999999", "optimizer.weight_decay=0"),
    *("optimizer.dampening=1 optimizer.nesterov=false", "optimizer.weight_decay=1000"),
    *("optimizer.foreach=true optimizer.fused=false", "optimizer.fused=null"),
    *("optimizer=adam optimizer.eps=0", "optimizer=adam optimizer.betas=[0.0,0.0]"),
    *("optimizer=adam optimizer.amsgrad=true", "optimizer=adamw optimizer.capturable=false"),
    *("optimizer=rmsprop optimizer.alpha=0", "optimizer=rmsprop optimizer.centered=true"),
    *("scheduler.pct_start=0.01", "scheduler.pct_start=0.99", "scheduler.three_phase=true"),
    *("scheduler.anneal_strategy=linear", "scheduler.div_factor=1e10", "scheduler.max_lr=0.3"),
    *("scheduler.max_lr=[0.1,0.2]", "scheduler.final_div_factor=1", "+scheduler.last_epoch=-1"),
    *("scheduler=step scheduler.gamma=1.5", "scheduler=step scheduler.step_size=1000000"),
    *("scheduler=cosine scheduler.T_max=7", "scheduler=cosine scheduler.eta_min=0.1"),
    *("scheduler=plateau scheduler.patience=0", "scheduler=plateau scheduler.threshold=0"),
    *("scheduler=plateau scheduler.min_lr=[0,0.001]", "scheduler=plateau scheduler.mode=max"),
    *("scheduler=constant scheduler.factor=0", "scheduler=step module.interval=step"),
    *("loss.label_smoothing=0.999", "loss.reduction=sum"),
    *("data.batch_size=1 trainer.max_epochs=1", "data.batch_size=60000", "data.drawn=1"),
    *("data.train_size=1 data.batch_size=1", "data.eval_batch_size=1", "data.drawn=0.0"),
    *("data.split_seed=4294967295", "data.folds=1000 data.fold=999"),
    *("augmentation.distort.degrees=180", "augmentation.distort.translate=14"),
    *("augmentation.distort.scale=0.999", "augmentation.distort.gamma=10"),
    *("augmentation.distort.shear=10", "augmentation.distort.bend=0.999"),
    *("callbacks.fade.start=0", "callbacks.average.decay=0", "callbacks.fade=null"),
    *("trainer.limit_train_batches=1.0", "trainer.limit_train_batches=1", "trainer.max_epochs=1"),
    *("trainer.limit_val_batches=0.5", "trainer.accumulate_grad_batches=7"),
    *("trainer.gradient_clip_val=1e-9", "trainer.check_val_every_n_epoch=100"),
    *("trainer.deterministic=warn", "trainer.inference_mode=false", "trainer.benchmark=true"),
    *("requirements.min_val_accuracy=0", "requirements.min_val_accuracy=null", "seed=4294967295"),
    *("requirements.max_parameters=19383", "model.blocks.0.kernel=27", "model.dropout=0.999"),
    *("model.align=true", "model.name='ü'", "optimized_metric=best_val_loss"),
    f"model={ODD}, channels: [16, 32, 64]}}",
    f"model={ODD}, kernel: 2, scale: 2.0, end: 3, dropout: true}}",
    f"model={ODD}, scale: [0.8, 1.2], degrees: [-10, 10]}}",
    "loss={_target_: fuzz.Odd, gamma: 0.0, alpha: 1.0}",
    f"augmentation.own={ODD}, scale: [0.8, 1.2], degrees: [-10, 10]}}",
)


class Odd(nn.Identity):
    """A user's class: its arguments have the names of known ones, but other values."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments


def legal() -> Iterator[list[str]]:
    """Yield legal overrides, those of one command at a time."""
    for line in LEGAL:
        yield [line] if "{" in line else line.split()


def keys(node: Any, path: str = "") -> Iterator[str]:
    """Yield every key of a config, inner ones too."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        place = f"{path}.{key}" if path else str(key)
        yield place
        if isinstance(value, (dict, list)):
            yield from keys(value, place)


def overrides(rng: random.Random) -> Iterator[str]:
    """Yield random overrides, endlessly."""
    plain = OmegaConf.to_container(compose("run_dir=unused"), resolve=False)
    known = [key for key in keys(plain) if key != "run_dir"]
    groups = [path.name for path in folders.config().iterdir() if path.is_dir()]
    groups.remove("hydra")
    while True:
        value = rng.choice(NONSENSE)
        kind = rng.random()
        if kind < 0.1:
            yield f"{rng.choice(groups)}={value}"
        elif kind < 0.15:
            yield f"~{rng.choice(known)}"
        elif kind < 0.25:
            yield f"{rng.choice(known)}.{rng.choice(('x', '0', '_target_', '_partial_'))}={value}"
        else:
            yield f"{rng.choice(known)}={value}"


def answer(*arguments: str) -> tuple[str, str]:
    """Run arguments; return `accepted`, `refused`, `lines` or `traceback`, and the message."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            hydra.main(folders.config(), [*arguments, "+hydra.callbacks.stop._target_=fuzz.Stop"])
            return "accepted", ""
        except Stopped:
            return "accepted", ""
        except SystemExit as stop:
            words = f"{said.getvalue()}{stop.code or ''}".removeprefix(f"{hydra.LOADING}\n")
        except Exception:
            return "traceback", traceback.format_exc()
    if "Traceback" in words:
        return "traceback", words
    return ("lines" if words.strip().count("\n") > 2 else "refused"), words.strip()


class Stopped(BaseException):
    """Raised after all checks."""


class Stop(Callback):
    """Ends a run after its checks, before it trains."""

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        """End it."""
        raise Stopped


def run(trials: int, seed: int) -> dict[str, Any]:
    """Try overrides; returns counts, and what was not refused in a line."""
    counts: Counter[str] = Counter()
    kept: dict[str, list[list[str]]] = {"traceback": [], "lines": [], "accepted": []}
    refused: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Path.cwd()
        os.chdir(folder)
        for _, override in zip(
            tqdm(range(trials), unit="trial"), overrides(random.Random(seed)), strict=False
        ):
            kind, words = answer(override)
            counts[kind] += 1
            if kind == "accepted":  # and its folder made
                shutil.rmtree("outputs", ignore_errors=True)
            if kind in kept:
                kept[kind].append([override, words[-300:]])
        for given in legal():
            kind, said = answer(*given, "requirements.enforce=false", "trainer.accelerator=cpu")
            shutil.rmtree("outputs", ignore_errors=True)
            if kind != "accepted":
                refused.append([" ".join(given), said[-300:]])
        left = sorted(path.name for path in Path(folder).iterdir())
        os.chdir(before)
    found = {"trials": trials, "seed": seed, "counts": dict(counts), "left": left, **kept}
    return {**found, "legal": len(LEGAL), "legal_refused": refused}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3000, help="default: 3000")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Fuzz as the command line says."""
    import fuzz  # under the name that Hydra uses

    options = command_line().parse_args()
    os.environ["MNIST_LIT_TRACEBACK"] = "1"  # shows unforeseen exceptions
    found = fuzz.run(options.trials, options.seed)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"legal values: {found['legal']}, refused: {found['legal_refused'] or 'none'}")
    print(found["counts"], "left in the folder:", found["left"] or "nothing")


if __name__ == "__main__":
    main()
