"""Sweeps and searches that are killed, and the speed of the launchers.

python benchmarks/sweeps.py grid search     # results/sweeps.json
python benchmarks/sweeps.py speed           # on an idle machine

`grid` runs six jobs of `nano`, five short epochs each, two at a time. It kills the sweep with
SIGKILL when jobs are in epoch 4, and repeats the command. Every job must be, bit for bit, as in a
sweep without SIGKILL, and no epoch may be trained twice except the interrupted ones.
`search` runs eight trials, two at a time. It kills the search with SIGKILL when two have finished
and two are running, and repeats the command. Eight must finish, the first two must not change, and
the two that were running must be repeated with the same values.
`speed` runs six jobs of `final`, three epochs each, with both launchers in turns: one job after the
other in one process with two threads, and two at a time with one thread each.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from faults import differences, plain
from optuna.trial import TrialState

from mnist_lit.sweeps import job

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "sweeps.json"
SHORT = (
    *("experiment=nano", "trainer=cpu", "trainer.max_epochs=5", "data.train_size=9600"),
    *("data.batch_size=64", "requirements.enforce=false", "hydra.launcher.n_jobs=2"),
)


def start(*words: str) -> "subprocess.Popen[str]":
    """Start ``train.py``."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a sweep, and wait until its jobs have noticed."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(10)


def epochs(log: Path) -> list[int]:
    """Return the numbers of the epochs in a job's log."""
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return [int(number) for number in re.findall(r"^epoch +(\d+)/", text, re.MULTILINE)]


def grid(folder: Path) -> dict[str, Any]:
    """Kill a grid in epoch 4 of 5."""
    words = ("-m", *SHORT, "hydra/launcher=processes", "seed=0,1,2,3,4,5")
    whole = start(*words, f"hydra.sweep.dir={folder}/whole")
    whole.communicate()
    process = start(*words, f"hydra.sweep.dir={folder}/killed")
    logs = [folder / f"killed/{number}/run.log" for number in range(6)]
    while not any(epochs(log)[-1:] == [3] for log in logs[2:]):
        time.sleep(0.01)
    kill(process)
    before = [epochs(log) for log in logs]
    states = [job.read(log.parent).state for log in logs]
    again = start(*words, f"hydra.sweep.dir={folder}/killed")
    said = again.communicate()[0]
    both = [epochs(log) for log in logs]
    return {
        "killed_in": {
            str(i): f"{s}, epochs {b}" for i, (s, b) in enumerate(zip(states, before, strict=True))
        },
        "exit": again.returncode,
        "epochs_trained": both,
        "trained_twice": sum(len(one) - len({*one}) for one in both),
        "differs": {
            str(i): found
            for i in range(6)
            if (found := list(differences(folder / f"killed/{i}", plain(folder / f"whole/{i}"))))
        },
        "table": said.splitlines()[-3:-1],
    }


def search(folder: Path) -> dict[str, Any]:
    """Kill a search with two of eight trials finished and two running."""
    words: tuple[str, ...] = (
        *SHORT,
        "hparams_search=default",
        "search.n_trials=8",
        "search.pruner=none",
    )
    words += (f"hydra.sweep.dir={folder}/search",)

    def trials() -> list[optuna.trial.FrozenTrial]:
        database = folder / "search/study.db"
        if not database.is_file():
            return []
        study = optuna.load_study(study_name="default", storage=f"sqlite:///{database}")
        return study.trials

    def of(state: TrialState) -> list[optuna.trial.FrozenTrial]:
        return [one for one in trials() if one.state is state]

    process = start(*words)
    while not (
        process.poll() is None
        and len(of(TrialState.COMPLETE)) == 2
        and len(of(TrialState.RUNNING)) == 2
    ):
        time.sleep(0.1)
    time.sleep(5)
    kill(process)
    done, running = of(TrialState.COMPLETE), of(TrialState.RUNNING)
    again = start(*words)
    said = again.communicate()[0]
    after = trials()
    again_params = [one.params for one in after if one.system_attrs.get("retry_history")]
    return {
        "at_the_kill": {"complete": len(done), "running": len(running)},
        "exit": again.returncode,
        "complete": len([one for one in after if one.state is TrialState.COMPLETE]),
        "untouched": all(
            (after[one.number].value, after[one.number].datetime_complete)
            == (one.value, one.datetime_complete)
            for one in done
        ),
        "tried_again": sum(one.params in again_params for one in running),
        "said": re.findall("^default: .*", said, re.MULTILINE),
    }


def speed(folder: Path) -> dict[str, Any]:
    """Time six jobs with two launchers, in turns."""
    words: tuple[str, ...] = (
        "-m",
        "model=final",
        "trainer=cpu",
        "trainer.max_epochs=3",
        "seed=0,1,2,3,4,5",
    )
    words += ("requirements.enforce=false",)
    ways = {
        "basic": ("hydra/launcher=basic",),
        "processes": ("hydra/launcher=processes", "hydra.launcher.n_jobs=2"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(2):
        for way, more in ways.items():
            began = time.monotonic()
            start(*words, *more, f"hydra.sweep.dir={folder}/{way}{turn}").communicate()
            seconds[way].append(round(time.monotonic() - began, 1))
    return {
        "seconds": seconds,
        "ratio": round(
            statistics.mean(seconds["basic"]) / statistics.mean(seconds["processes"]), 3
        ),
        "cores": os.cpu_count(),
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "grid": grid,
    "search": search,
    "speed": speed,
}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Run the parts that the command line names."""
    options = command_line().parse_args()
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            results[part] = PARTS[part](Path(folder))
        options.output.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results[part], indent=1))


if __name__ == "__main__":
    main()
