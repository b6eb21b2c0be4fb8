"""The two commands as a user types them, each in its own process."""

import json
import os
import pickle
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from mnist_lit import compose
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import read_file
from mnist_lit.cli import main
from mnist_lit.errors import CheckpointError, ConfigError
from mnist_lit.export.formats import FORMATS
from mnist_lit.sweeps.processes import Processes
from mnist_lit.training.classifier import LitClassifier
from mnist_lit.training.train import TrainingResult, train
from tests.conftest import PROGRAM, PROJECT, TINY, Here, run_train

LONG = [
    *(option for option in TINY if not option.startswith(("trainer.max", "callbacks"))),
    *("trainer.max_epochs=500", "requirements.max_epochs=500"),
]
ENFORCED = [*(option for option in TINY if "enforce" not in option), "model=final"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    run_dir = tmp_path_factory.mktemp("trained")
    return train(compose(*TINY, "test=true", f"run_dir={run_dir}"))


@pytest.mark.parametrize(
    ("command", "seconds", "said"),
    [
        (["train.py", "--help"], 2.0, "python train.py"),
        ([PROGRAM, "--help"], 2.0, "train.py"),
        (["train.py", "--cfg", "job"], 2.0, "max_parameters: 20000"),
        (["train.py", "seeed=1"], 2.0, "error: seeed: no such key; did you mean seed?"),
        (["train.py", "optimizer=sgdd"], 2.0, "error: optimizer=sgdd: no such choice"),
        (["train.py", "lr=0.1"], 2.0, "error: lr: no such key; did you mean optimizer.lr?"),
    ],
)
def test_an_answer_that_needs_no_torch_comes_at_once(
    command: list[str], seconds: float, said: str
) -> None:
    code = """if True:
        import resource, runpy, sys
        try:
            sys.argv = sys.argv[1:]
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            heavy = {"torch", "pytorch_lightning", "torchvision", "matplotlib"} & set(sys.modules)
            print("heavy:", *heavy, "seconds:", usage.ru_utime + usage.ru_stime)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=PROJECT, capture_output=True, text=True
    )
    assert said in done.stdout + done.stderr
    assert done.returncode == ("error" in said)
    # CPU seconds, so that a busy machine fails no test; they still vary by half.
    heavy, computed = done.stdout.splitlines()[-1].split("seconds:")
    assert heavy.strip() == "heavy:"
    assert float(computed) < seconds


def test_a_working_folder_that_is_gone_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    for words in (f"{PROGRAM} list", str(PROJECT / "train.py")):
        script = f"mkdir -p gone; cd gone; rmdir ../gone; exec {sys.executable} {words}"
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        line = "error: FileNotFoundError: [Errno 2] No such file or directory\n"
        assert (done.returncode, done.stderr) == (1, line)


def test_a_files_name_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("--trust=os.system", "--output=.notes"):
        Path(name).touch()
        with pytest.raises(SystemExit) as ended:
            main(["predict", "nano", *sorted(map(str, Path().iterdir()))])
        assert ended.value.code == 2
        assert "a file has this name; write ./--" in capsys.readouterr().err


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys, time; t = time.process_time(); import mnist_lit; t = time.process_time() - t"
    )
    subprocess.run([sys.executable, "-c", f"{code}; assert t < 0.1, t"], check=True)


def test_help_names_every_group_with_an_example(here: Here, tmp_path: Path) -> None:
    text = here("--help").stdout
    for group in (PROJECT / "conf").iterdir():
        if group.is_dir() and group.name != "hydra":
            assert re.search(rf"^  {group.name} .*python train.py .*{group.name}", text, re.M), (
                group
            )


def test_cfg_job_prints_the_composed_config(here: Here, tmp_path: Path) -> None:
    for words in (["--cfg", "job", "model=optimized"], ["model=optimized", "--cfg", "job"]):
        text = here(*words).stdout
        assert "name: optimized" in text
        assert "max_parameters: 20000" in text


def test_mnist_lit_train_also_searches_conf_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/own.yaml").write_text("_target_: mine.Own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mnist-lit"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    main(["train", "loss=own", "--cfg", "job", "--package=loss"])
    assert capsys.readouterr().out == "# @package loss\n_target_: mine.Own\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["optimizer=sgdd"],
            "error: optimizer=sgdd: no such choice; did you mean sgd\\? allowed here: ",
        ),
        (
            ["optimizer.lrr=1"],
            "error: optimizer.lrr: no such key; did you mean lr\\? allowed here: ",
        ),
        (["optimiser=sgd"], "error: optimiser: no such key; did you mean optimizer\\? "),
        (["optimizer.lr=-1"], "error: optimizer.lr=-1: should be greater than 0"),
        (
            ["-m", "seed=0,1", "optimizer.lr=0.1,-1"],
            "error: optimizer.lr=-1: should be greater than 0",
        ),
        (["seed"], "error: seed: cannot be read as key=value"),
        (["lr=0.1"], "error: lr: no such key; did you mean optimizer.lr\\?"),
        (["epochs=5"], "error: epochs: no such key; did you mean trainer.max_epochs\\?"),
        (["batch_size=64"], "error: batch_size: no such key; did you mean data.batch_size\\?"),
        (["--mutlirun"], "error: --mutlirun: no such option; did you mean --multirun\\?"),
        (["--experimental-rerun", "a.pickle"], "error: --experimental-rerun: no such option; "),
        (["--lr", "0.1"], "error: --lr: no such option; .* key=value: optimizer.lr=0.1"),
        (["--epochs=5"], "error: --epochs: no such option; .* key=value: trainer.max_epochs=5"),
        (["optimizer=SGD"], "error: optimizer=SGD: no such choice; did you mean sgd\\?"),
        (["model.dropout=0"], "error: requirements.dropout=True, but this run has False"),
        (["model._target_=torch.nn.Nothing"], "error: model=torch.nn.Nothing: cannot be built"),
        (["init_from=finale"], "error: finale: no such network; there are final"),
        (["trainer.max_epochs=21"], "error: requirements.max_epochs=20, but this run has 21"),
        (["ckpt_path=gone.ckpt"], "error: ckpt_path=gone.ckpt is not there; "),
    ],
)
def test_a_mistake_is_one_line_and_a_non_zero_exit(
    here: Here, tmp_path: Path, arguments: list[str], line: str
) -> None:
    done = here(*arguments)
    assert done.returncode != 0
    assert re.match(line, done.stderr)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a mistake leaves no folder behind"


def test_a_missed_requirement_exits_non_zero_after_saving_everything(
    here: Here, tmp_path: Path
) -> None:
    done = here(*ENFORCED, "model=optimized", "test=true", "hydra.run.dir=run")
    assert done.returncode == 1
    missed = "Validation Accuracy ≥ 99.4%"
    assert done.stderr == f"error: requirements not met in ./run: {missed}\n"
    run = tmp_path / "run"
    report = json.loads((run / "report.json").read_text())
    assert report["passed"] is False
    for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "figures/curves.png"):
        assert (run / name).is_file()
    assert "✗ Validation Accuracy ≥ 99.4%: FAIL" in done.stdout
    assert "Epochs ≤ 20: PASS (2)" in done.stdout


def test_a_sweep_runs_every_job_in_a_folder_of_its_own(here: Here, tmp_path: Path) -> None:
    done = here("-m", *ENFORCED, "model=optimized,small")
    assert done.returncode == 1, "the tiny runs miss 99.4 %, and every one of them must still run"
    reports = sorted(tmp_path.glob("multirun/*/*/*/report.json"))
    assert [path.parent.name for path in reports] == ["0", "1"]
    models = [json.loads(path.read_text())["model"] for path in reports]
    assert models == ["optimized", "small"]
    assert done.stderr == "error: of 2 jobs 2 missed requirements\n"
    assert done.stdout.count("  missed requirements: Validation Accuracy ≥ 99.4%") == 2


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    done = run_train(*TINY, "trainer=ddp", "trainer.devices=2", "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["device"].startswith("2 × cpu")
    assert done.stdout.count("REQUIREMENTS CHECK") == 1
    assert done.stderr == ""
    assert not re.search("warn|HYDRA|recommended", done.stdout, re.IGNORECASE)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_torchruns_processes_have_one_folder_and_end_with_one_line(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*launch, str(PROJECT / "train.py"), *LONG, "trainer=ddp", "trainer.devices=2"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)  # it forwards the signal to both
        _, said = process.communicate(timeout=100)
    (folder,) = tmp_path.glob("outputs/*/*")
    lines = [line for line in said.splitlines() if "error: " in line]
    assert len(lines) == 1, said
    assert re.fullmatch(r"error: stopped in epoch \d+ of 500; to resume: .*", lines[0])
    assert {path.name for path in folder.iterdir()} >= {".hydra", "checkpoints", "run.log"}


def test_evaluate_repeats_the_count_of_the_report(
    trained: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(trained.run_dir / "checkpoints/best.ckpt")
    main(["evaluate", checkpoint, "--json"])
    printed = capsys.readouterr()
    assert printed.err == ""
    outcome = json.loads(printed.out)
    assert outcome["correct"] == trained.report.test_correct
    assert outcome["total"] == 10_000
    classifier = LitClassifier.load_from_checkpoint(checkpoint)
    assert classifier.hparams["network"]["blocks"][0]["channels"] == 6


def test_a_runs_folder_stands_for_its_best_epoch(
    trained: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(trained.run_dir), "--json"])
    assert json.loads(capsys.readouterr().out)["correct"] == trained.report.test_correct


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["evalute", "final"], "error: argument COMMAND: invalid choice: 'evalute'"),
        (["evaluate", "final", "--jsn"], "error: unrecognized arguments: --jsn"),
        (["export", "final", "--to", "onx"], "error: argument --to: invalid choice: 'onx'"),
        (["predict", "final"], "error: the following arguments are required: FILE|FOLDER|GLOB"),
        (["evaluate", "final", "--batch-size", "0"], "error: argument --batch-size: '0': a whole"),
        (
            ["evaluate", "final", "--batch-size", "9" * 20],
            f"error: argument --batch-size: '{'9' * 20}': a whole number from 1 to 2^31",
        ),
    ],
)
def test_a_misspelt_word_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_version_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"mnist-lit {version('mnist-lit')}\n"
    main(["list"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:-1]] == sorted(
        pretrained.names(), key=lambda name: -pretrained.record(name)["parameters"]
    )
    assert re.search(r"^nano +990 +4.0 kB +99.00%  under 1,000", "\n".join(rows), re.MULTILINE)


def test_a_file_of_a_strangers_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ran = tmp_path / "theirs", tmp_path / "ran"
    (theirs / "hydra_plugins").mkdir(parents=True)
    # The other packages look for all but the last, but need none.
    for package in ("dill", "pynvml", "accimage", "tabulate", "hydra_plugins/own", "yaml"):
        (theirs / f"{package}.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.setattr(sys, "argv", ["mnist-lit"])  # no file, as on Windows
    sources = [{"provider": "main", "path": str(PROJECT / "conf")}]
    hydras = {"runtime": {"config_sources": sources}, "job": {"config_name": "config"}}
    jobs = Processes()
    jobs.config = OmegaConf.create({"hydra": hydras})
    build = [PROGRAM, "train", "requirements.max_epochs=1"]
    for code, command in (
        (0, [PROGRAM, "list"]),
        (0, [*jobs._program(), "--cfg", "job"]),
        (1, build),
    ):
        assert subprocess.run(command, cwd=theirs).returncode == code
        assert not ran.exists()


def test_export_describes_its_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    out = capsys.readouterr().out
    for name, form in FORMATS.items():
        assert re.search(rf"^  {name} +{form.words}$", out, re.MULTILINE)


def test_evaluate_takes_split_and_batch_size(
    trained: TrainingResult, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(trained.run_dir / "checkpoints/best.ckpt")
    main(["evaluate", checkpoint, "--split", "holdout", "--batch-size", "333", "--device", "cpu"])
    assert re.search(r"Accuracy: \d,\d+ of 5,000 \(\d+\.\d\d%\)", capsys.readouterr().out)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return Path.touch, (self.sentinel,)


def broken_checkpoints(folder: Path, good: Path) -> dict[str, tuple[Path, str]]:
    """Make files that are not checkpoints of this project, each with its error message."""
    text = folder / "text.ckpt"
    text.write_text("not a checkpoint\n")
    empty = folder / "empty.ckpt"
    empty.touch()
    truncated = folder / "truncated.ckpt"
    truncated.write_bytes(good.read_bytes()[:20_000])
    foreign = folder / "foreign.ckpt"
    torch.save({"state_dict": {"layer": torch.ones(3)}, "hyper_parameters": {"width": 3}}, foreign)
    bare = folder / "bare.ckpt"
    torch.save(torch.ones(3), bare)
    resized = folder / "resized.ckpt"
    state = torch.load(good, weights_only=True)
    state["hyper_parameters"]["network"]["blocks"][0]["channels"] = 13
    torch.save(state, resized)
    trap = folder / "trap.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Trap(folder / "sentinel")}, trap)
    raw = folder / "raw.ckpt"
    raw.write_bytes(pickle.dumps(Trap(folder / "sentinel")))
    return {
        "gone": (folder / "gone.ckpt", "is not there"),
        "folder": (folder, "is a folder without a checkpoint"),
        "text": (text, "is not a checkpoint"),
        "empty": (empty, "is not a checkpoint"),
        "truncated": (truncated, "truncated or damaged"),
        "foreign": (foreign, "not one that this project's train.py wrote"),
        "bare": (bare, "is not a checkpoint of this project"),
        "resized": (resized, "not one that this project's train.py wrote"),
        "trap": (trap, "contains Python objects"),
        "raw": (raw, "is not a checkpoint"),
    }


def test_a_bad_checkpoint_is_named_in_one_line_and_runs_nothing(
    trained: TrainingResult, tmp_path: Path
) -> None:
    cases = broken_checkpoints(tmp_path, trained.run_dir / "checkpoints/best.ckpt")
    for name, (path, words) in cases.items():
        with pytest.raises(CheckpointError) as caught:
            LitClassifier.load_from_checkpoint(path)
        message = str(caught.value)
        assert words in message, name
        assert str(path) in message, name
        assert "\n" not in message, name
        with pytest.raises(SystemExit) as exit_:
            main(["evaluate", str(path)])
        assert exit_.value.code == f"error: {message}"
    assert not (tmp_path / "sentinel").exists()


def test_another_lightning_projects_checkpoint_is_refused(tmp_path: Path) -> None:
    class Other(pl.LightningModule):
        def __init__(self, network: dict[str, int]) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, 2)

    path = tmp_path / "other.ckpt"
    torch.save(
        {"state_dict": Other({"width": 1}).state_dict(), "hyper_parameters": {"network": {"w": 1}}},
        path,
    )
    with pytest.raises(CheckpointError, match=r"other\.ckpt: model\.w: no such key"):
        LitClassifier.load_from_checkpoint(path)


@pytest.mark.parametrize("device", ["quantum", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(trained: TrainingResult, device: str) -> None:
    checkpoint = str(trained.run_dir / "checkpoints/best.ckpt")
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", checkpoint, "--device", device])
    assert str(caught.value.code).startswith(f"error: device {device}: not available here")


def test_train_is_a_function_of_a_config(tiny: Callable[..., DictConfig]) -> None:
    result = train(tiny("optimized_metric=last_val_accuracy"))
    assert result.objective == result.report.last_val_accuracy
    assert 0 < result.objective < 1


@pytest.mark.slow
def test_a_stopped_training_says_how_to_go_on_and_nothing_else(tmp_path: Path) -> None:
    options = [option for option in LONG if not option.startswith("logger")]
    command = [sys.executable, str(PROJECT / "train.py"), *options, "hydra.run.dir=run"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        while not last.is_file() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 1
    words = r"error: stopped in epoch (\d+) of 500; to resume: (.*)"
    stopped = re.fullmatch(words, said.strip())
    assert stopped, said
    assert stopped[2] == "python train.py ckpt_path=./run"
    assert 1 <= read_file(last)["epoch"] + 1 <= int(stopped[1])
    assert (tmp_path / "run" / "run.log").read_text().splitlines()[-1] == stopped[0][7:]
    epochs = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert epochs
    assert all(re.search(r"loss .* val accuracy .*% +lr .* s$", line) for line in epochs)
    assert "warn" not in printed.lower()


class Terminate(pl.Callback):
    """Sends the process SIGTERM, as a scheduler of jobs does."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_that_is_asked_to_end_says_how_to_go_on(here: Here) -> None:
    callback = "+callbacks.end._target_=tests.test_command_line.Terminate"
    done = here(*TINY, callback, "hydra.run.dir=run")
    assert done.returncode == 1
    words = "stopped in epoch 2 of 2; to resume: python train.py ckpt_path=./run"
    assert done.stderr == f"error: {words}\n"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_class_that_ends_the_process_is_a_mistake(
    here: Here, tmp_path: Path, at_once: bool
) -> None:
    quits = f"+callbacks.end={{_target_: tests.own.Quits, at_once: {at_once}}}"
    done = here(*TINY, quits, "hydra.run.dir=run")
    assert done.returncode == 1
    assert re.fullmatch(r"error: \S*own.py, line \d+: sys.exit\(0?\) ended the run\n", done.stderr)
    assert (tmp_path / "run").exists() is not at_once
    with pytest.raises(ConfigError, match=r"sys.exit\(0?\) ended the run"):
        train(compose(*TINY, quits, f"run_dir={tmp_path / 'python'}"))


@pytest.mark.slow
def test_a_run_without_a_terminal_trains(tmp_path: Path) -> None:
    """Its streams are closed at the start, or its terminal closes while it trains."""
    command = [sys.executable, str(PROJECT / "train.py"), *TINY, "hydra.run.dir=closed"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *command], cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "closed" / "report.json").is_file()
    ours, theirs = pty.openpty()
    command = [sys.executable, str(PROJECT / "train.py"), *LONG, "hydra.run.dir=run"]
    with subprocess.Popen(
        ["setsid", "--ctty", *command],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        while not (tmp_path / "run/checkpoints/last.ckpt").is_file():
            assert process.poll() is None
            os.read(ours, 4096)
        os.close(ours)  # which sends SIGHUP
        assert process.wait(timeout=100) == 1
    line = (tmp_path / "run" / "run.log").read_text().splitlines()[-1]
    assert re.fullmatch(r"stopped in epoch \d+ of 500; to resume: .*/run", line)


def test_nohup_keeps_a_run_alive(tmp_path: Path, here: Here) -> None:
    was = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        here("--cfg", "job")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, was)


def test_nodes_that_nobody_starts_are_not_waited_for(here: Here, tmp_path: Path) -> None:
    done = here(*TINY, "trainer.num_nodes=2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: trainer.num_nodes=2: this is no cluster; start the same")
    assert not list(tmp_path.iterdir())
