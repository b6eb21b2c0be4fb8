"""The folder of a run, and resuming from it."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mnist_lit import compose, train
from mnist_lit.config.check import parse
from mnist_lit.errors import ConfigError
from mnist_lit.evaluation.provenance import override
from mnist_lit.files import UNFINISHED
from mnist_lit.training import hydra, rundir
from mnist_lit.training.build import build_loggers
from tests.conftest import PROJECT, TINY, Here
from tests.own import Boom, Secretive

NAMED = (*TINY, "hydra.run.dir=run")


def test_runs_of_the_same_second_have_folders_of_their_own(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAY", "today")  # instead of the time, which a test cannot fix
    (tmp_path / "conf/local").mkdir(parents=True)
    own = "hydra:\n  run:\n    dir: outputs/${oc.env:DAY}\n"
    (tmp_path / "conf/local/default.yaml").write_text(f"# @package _global_\n{own}")
    for _ in range(2):
        done = here(*TINY, f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
        assert (done.returncode, done.stderr) == (0, "")
    runs = sorted((tmp_path / "outputs").iterdir())
    assert [run.name for run in runs] == ["today", "today-1"]
    assert all((run / "report.json").is_file() for run in runs)


def test_a_named_folder_holds_one_run(here: Here, tmp_path: Path) -> None:
    assert here(*NAMED).returncode == 0
    before = (tmp_path / "run" / "report.json").read_bytes()
    done = here(*NAMED, "seed=1")
    assert done.returncode == 1
    assert done.stderr == (
        "error: hydra.run.dir=./run: another run lies there; give another folder, or resume that "
        "run: ckpt_path=./run\n"
    )
    assert (tmp_path / "run" / "report.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run", 'ü "a" b=(c),\'d\\e\\'])
def test_a_run_goes_on_in_its_folder_whatever_its_name(
    here: Here, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    options = [*TINY, override("hydra.run.dir", folder), "logger=csv", "seed=3", "callbacks=plain"]
    assert here(*options).returncode == 0
    (folder / "report.json").unlink()
    killed = folder / "checkpoints" / f"{UNFINISHED}00000001.ckpt"
    killed.touch()
    done = here(override("ckpt_path", folder))
    assert not killed.exists()
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((folder / "report.json").read_text())
    assert (report["seed"], report["epochs"]) == (3, 2)
    begun = shlex.join(word for word in options if not word.startswith("hydra.run.dir="))
    assert report["command"] == f"python train.py {begun}  # resumed"
    assert report["config"]["seed"] == 3
    with (folder / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    assert "val_accuracy" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_latest_is_the_newest_unfinished_run(here: Here, tmp_path: Path) -> None:
    assert here("ckpt_path=latest").stderr == (
        "error: ckpt_path=latest: there is no unfinished run below outputs/\n"
    )
    assert here(*TINY, "hydra.run.dir=outputs/day/a").returncode == 0
    day = tmp_path / "outputs/day"
    for name in ("b", "c"):
        shutil.copytree(day / "a", day / name)
    for name in ("a", "b"):
        (day / name / "report.json").unlink()
    (day / "b/checkpoints/last.ckpt").touch()
    assert here("ckpt_path=latest").returncode == 0
    assert (day / "b/report.json").is_file()
    assert not (day / "a/report.json").is_file()


def test_what_is_typed_is_what_is_meant() -> None:
    for text in ("/a/b", "/a b", "/it's", '/q"', "/back\\", "/a=b,(c)[d]{e}", "/~x", "/ü"):
        (word,) = shlex.split(shlex.quote(override("ckpt_path", Path(text))))
        assert OverridesParser.create().parse_override(word).value() == text


def test_the_home_folder_is_expanded_for_the_files_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = OmegaConf.create({"run_dir": "~/runs"})
    assert hydra._shared_dir(_root_=root) == str(tmp_path / "runs")


def test_a_folder_that_cannot_be_made_is_a_line(here: Here, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = here(*TINY, "hydra.run.dir=file/run")
    assert done.returncode == 1
    assert re.fullmatch(r"error: hydra.run.dir=.*: cannot be made: .*\n", done.stderr)


def test_a_file_of_yaml_that_cannot_be_read_is_named(here: Here, tmp_path: Path) -> None:
    broken = {"tab": "a:\n\tb: 1\n", "open": "a: {b: 1\n", "twice": "lr: 1\nlr: 2\n"}
    for name, text in broken.items():
        (tmp_path / "own" / "optimizer").mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "optimizer" / f"{name}.yaml").write_text(text)
        done = here(f"hydra.searchpath=[file://{tmp_path / 'own'}]", f"optimizer={name}")
        assert done.returncode == 1
        assert re.match(rf"error: .*{name}.yaml.*, line \d: ", done.stderr), done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "=None: should be a valid list"),
        (b"seed=1", "=seed=1: should be a valid list"),
        (b"- seed=1\n- 5", r"\[1\]=5: should be a valid string"),
        (b"- [", ", line 1: not YAML"),
        (b"\xff\x00", "unacceptable character"),
    ],
)
def test_altered_options_of_a_run_are_named(
    content: bytes, words: str, here: Here, tmp_path: Path
) -> None:
    (tmp_path / "run/.hydra").mkdir(parents=True)
    (tmp_path / "run/.hydra/overrides.yaml").write_bytes(content)
    done = here("ckpt_path=run")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*({words}).*\n", done.stderr), done.stderr
    assert "run/.hydra/overrides.yaml" in done.stderr


@pytest.mark.parametrize(
    "word",
    [
        "model._target_=evil.Net",
        "+callbacks.x={_target_: os.system, command: id}",
        '++callbacks.x={"a": [{_target_: evil.Net}]}',
        r"callbacks.x=${oc.decode:\"{_tar\"}",
        "data.root=${oc.env:HOME}",
        r"model.name=$\{oc.env:HOME\}",
        "--config-dir=evil",
        "-m",
        "hydra.searchpath=[evil]",
        "+hydra.callbacks.x=1",
        "++hydra={callbacks: 1}",
        "hydra/launcher=processes",
        "optimizer=../../evil",
        "experiment=[quick,/../evil]",
        "+optimizer@a.b=../evil",
        "+optimizer@hydra.job.env_set=sgd",
        "+callbacks@hydra.callbacks.x=early_stopping",
        "+optimizer@_global_.a=sgd",
        "hparams_search=rate",
        "search.storage=evil",
        "logger.csv.save_dir=evil",
        "++logger={csv: {save_dir: evil}}",
        "init_from=evil/best.ckpt",
    ],
)
def test_a_folders_options_name_no_code_and_no_files(word: str, here: Here, tmp_path: Path) -> None:
    file = tmp_path / "run/.hydra/overrides.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(["seed=1", word]))
    done = here("ckpt_path=run")
    assert done.stderr == (
        "error: run/.hydra/overrides.yaml: may run code or use other files; if you trust it, add "
        f"to the command line: {shlex.quote(word)}\n"
    )


def test_a_run_with_own_code_goes_on_if_it_is_named_again(here: Here, tmp_path: Path) -> None:
    own = "+callbacks.own={_target_: tests.own.CountRight}"
    assert here(*NAMED, own, "logger=[csv]").returncode == 0
    (tmp_path / "run/report.json").unlink()
    assert here("ckpt_path=run").stderr.endswith(f"line: {shlex.quote(own)}\n")
    done = here("ckpt_path=run", own)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/report.json").read_text())["epochs"] == 2


def test_no_file_of_a_run_has_the_key_of_a_logger(here: Here, tmp_path: Path) -> None:
    own = [f"+logger.mine._target_={Secretive.__module__}.{Secretive.__qualname__}"]
    own += ["+logger.mine.save_dir=curves", "+logger.mine.api_key=abc-key"]
    done = here(*NAMED, *own)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves/metrics.csv").is_file()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    written = {file.name for file in files if b"abc-key" in file.read_bytes()}
    assert not written - {"changes.diff"}, "that may contain this test"


def test_no_file_of_a_run_has_the_password_of_a_url(here: Here, tmp_path: Path) -> None:
    own = ["logger=csv", "logger.csv.prefix='http://me:hidden@host'"]
    assert here(*NAMED, *own).returncode == 0
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    written = [file.name for file in files if b"me:hidden" in file.read_bytes()]
    assert not {*written} & {"config.yaml", "hydra.yaml", "overrides.yaml", "report.json"}
    assert (
        "oc.env:MNIST_LIT_LOGGER_CSV_PREFIX" in (tmp_path / "run/.hydra/overrides.yaml").read_text()
    )
    (tmp_path / "run/report.json").unlink()
    assert here("ckpt_path=run", *own).returncode == 0, "the password is given again"


@pytest.mark.parametrize(
    "names",
    [
        (*rundir.WRITTEN[::6], rundir.HYDRAS),
        pytest.param((*rundir.WRITTEN, rundir.HYDRAS), marks=pytest.mark.slow),
    ],
)
def test_what_a_user_has_in_a_folder_is_not_replaced(
    names: tuple[str, ...], here: Here, tmp_path: Path
) -> None:
    for name in names:
        file = tmp_path / "mine" / name.replace("*", "notes")
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
        done = here(*TINY, "hydra.run.dir=mine")
        assert (done.returncode, done.stderr) == (
            1,
            f"error: hydra.run.dir=./mine: it is no run of mnist-lit and holds {file.name}, a name "
            "that a run writes; give another folder\n",
        )
        assert [(path, path.read_text()) for path in file.parent.iterdir()] == [(file, "mine")]
        file.unlink()


@pytest.mark.parametrize("name", ["report.html", "metrics.csv", "run.log", ".hydra"])
def test_a_checkpoint_in_a_users_folder_makes_no_run(name: str, tmp_path: Path) -> None:
    for file in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", name):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("mine")
    last = str(tmp_path / "checkpoints/last.ckpt")
    for auto in (False, True):
        with pytest.raises(ConfigError, match=f"it is no run of mnist-lit and holds {name}, a n"):
            rundir.claim(tmp_path, last, "hydra.run.dir", auto)
    assert not (tmp_path / rundir.OURS).exists()
    (tmp_path / rundir.OURS).mkdir()  # as some versions of filelock leave it
    rundir.claim(tmp_path, last, "hydra.run.dir").__exit__(None, None, None)


def test_a_way_through_a_missing_folder_leads_to_the_same_run(here: Here, tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run" / rundir.OURS).mkdir()
    for file in ("report.json", f"{rundir.OURS}/lock", "checkpoints/best.ckpt"):
        (tmp_path / "run" / file).write_text("mine")
    before = {*tmp_path.rglob("*")}
    done = here(*TINY, "hydra.run.dir=missing/../run")
    assert done.stderr.startswith("error: hydra.run.dir=./run: another run lies there; give")
    with pytest.raises(ConfigError, match="run: another run lies there"):
        rundir.claim(tmp_path / "missing/../run")
    assert {*tmp_path.rglob("*")} - {tmp_path / "run" / rundir.OURS / "lock"} == before - {
        tmp_path / "run" / rundir.OURS / "lock"
    }


def test_a_best_checkpoint_that_is_moved_replaces_no_link(tmp_path: Path) -> None:
    (tmp_path / rundir.OURS).mkdir()
    (tmp_path / rundir.OURS / "lock").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").write_text("best")
    (tmp_path / "checkpoints/best.ckpt.old").symlink_to(tmp_path / "gone")
    with rundir.claim(tmp_path, auto=True):
        assert (tmp_path / "checkpoints/best.ckpt.old").is_symlink()
        assert (tmp_path / "checkpoints/best.ckpt.old1").read_text() == "best"


def test_an_empty_folder_makes_no_run(tmp_path: Path) -> None:
    (tmp_path / rundir.OURS).mkdir()
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"it is no run of mnist-lit and holds metrics\.csv"):
        rundir.claim(tmp_path)


def test_a_script_in_the_folder_of_a_run_does_no_harm(here: Here, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("job.sh", "slurm-1.out"):
        (tmp_path / "run" / name).write_text("mine")
    broken = here(*NAMED, "+callbacks.boom._target_=tests.own.Boom", "callbacks.boom.epoch=0")
    assert broken.returncode == 1
    done = here(*NAMED)
    assert (done.returncode, done.stderr) == (0, ""), "a run that left nothing begins again"
    assert (tmp_path / "run" / "job.sh").read_text() == "mine"


def test_train_claims_its_folder_itself(tiny: Callable[..., DictConfig]) -> None:
    done = train(tiny())
    before = {path: path.read_bytes() for path in done.run_dir.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"run_dir=.*: another run lies there; give another"):
        train(tiny("seed=1"))
    (done.run_dir / rundir.OURS / "lock").unlink(missing_ok=True)
    (done.run_dir / rundir.OURS).rmdir()  # as an earlier version left it
    with pytest.raises(ConfigError, match=r"it is no run of mnist-lit and holds checkpoints, a "):
        train(tiny("seed=1"))
    after = {path: path.read_bytes() for path in done.run_dir.rglob("*") if path.is_file()}
    assert {path.name: before[path] for path in after} == {p.name: after[p] for p in after}


@pytest.mark.parametrize(
    "node",
    ["callbacks: {}", "callbacks: {build: null}", "callbacks: {build: {_target_: own.Warns}}"],
)
def test_what_checks_a_run_stays(here: Here, tmp_path: Path, node: str) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".hydra").mkdir()
    (tmp_path / "run" / ".hydra" / "overrides.yaml").touch()
    (tmp_path / "run" / "report.json").touch()
    (tmp_path / "conf" / "local").mkdir(parents=True)
    text = f"# @package _global_\nhydra: {{{node}}}\n"
    (tmp_path / "conf" / "local" / "default.yaml").write_text(text, encoding="utf-8")
    done = here(*NAMED, f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: hydra.run.dir=./run: another run lies there; give another"
    )
    assert not any((tmp_path / "run" / ".hydra" / "overrides.yaml").read_bytes())


@pytest.mark.parametrize("word", ["~hydra.callbacks.build", "hydra.callbacks=null"])
def test_the_command_line_takes_out_nothing_that_checks(
    here: Here, tmp_path: Path, word: str
) -> None:
    done = here(*NAMED, word)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["..", ".", "/elsewhere", "conf"])
def test_hydra_writes_nothing_but_its_own_folder(here: Here, tmp_path: Path, name: str) -> None:
    done = here(*NAMED, f"hydra.output_subdir={name}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: hydra.output_subdir={name}: the config of a run goes to")
    assert not list(tmp_path.iterdir())


def test_a_folder_has_one_process(here: Here, tmp_path: Path) -> None:
    """Another process holds the folder, before its first epoch and after it."""
    code = """if True:
        import sys
        from pathlib import Path
        from mnist_lit.training import rundir
        with rundir.claim(Path("run"), "run/checkpoints/last.ckpt"):
            print(flush=True)
            sys.stdin.read()
    """
    for begun in (False, True):
        with subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
            words = [[*NAMED], [*NAMED, "seed=1"], [*NAMED, "ckpt_path=auto"]]
            for arguments in [*words, ["ckpt_path=run"]] if begun else words:
                done = here(*arguments)
                assert done.returncode == 1
                assert re.fullmatch(
                    r"error: hydra.run.dir=\S*run: another process trains there\n", done.stderr
                )
            with pytest.raises(ConfigError, match=r"run_dir=.*run: another process trains there"):
                train(compose(*TINY, f"run_dir={tmp_path / 'run'}"))
            assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
            other.communicate()
        if not begun:  # the lock has gone with its process
            assert here(*NAMED).returncode == 0
            (tmp_path / "run" / "report.json").unlink()


def test_one_command_starts_goes_on_and_finds_the_end(here: Here, tmp_path: Path) -> None:
    stop = f"+callbacks.stop={{_target_: tests.own.CtrlC, folder: run, once: {tmp_path / 'once'}}}"
    command = (*NAMED, "logger=csv", "ckpt_path=auto", stop)
    assert "error: stopped in epoch 2 of 2; to resume" in here(*command).stderr
    first = (tmp_path / "run/metrics.csv").read_text().splitlines()
    done = here(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nresumes after epoch 1 of 2\n" in done.stdout
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert rows[:2] == first[:2]
    assert len(rows) == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = here(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("run: this run is finished\n")
    assert "error: ckpt_path=" in here(*command, "seed=1").stderr, "another run is not done"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert here(*TINY, "ckpt_path=auto").stderr == (
        "error: ckpt_path=auto: name the folder: hydra.run.dir=FOLDER\n"
    )


def test_a_choice_that_yaml_or_hydra_cannot_read_is_a_line_with_words(
    here: Here, tmp_path: Path
) -> None:
    broken = {"set": "!!set {a, b}\n", "in": "a: !!set {b}\n", "nul": "null: 1\n", "to": "lr: ${\n"}
    for name, text in broken.items():
        (tmp_path / "own" / "optimizer").mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "optimizer" / f"{name}.yaml").write_text(text)
        done = here(f"hydra.searchpath=[file://{tmp_path / 'own'}]", f"optimizer={name}")
        assert done.returncode == 1
        assert re.fullmatch(r"error: (\S+ ){3,}\S+\n", done.stderr), done.stderr
    (tmp_path / "own" / "local").mkdir()
    (tmp_path / "own/local/default.yaml").write_text("\ufeff# @package _global_\nseed: 3\n")
    done = here(f"hydra.searchpath=[file://{tmp_path / 'own'}]")
    assert re.fullmatch(r"error: (\S+ ){3,}\S+\n", done.stderr), done.stderr


def test_a_folders_name_is_not_interpolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "J${seed}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit, match=r"Hydra reads `\$\{` in a folder's name; go to another"):
        hydra.main(PROJECT / "conf", (*NAMED, "seed=7"))
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


def test_a_run_needs_a_name_that_is_one(here: Here, tmp_path: Path) -> None:
    done = here(*TINY, "hydra.run.dir=")
    assert done.stderr == "error: hydra.run.dir=: the name of a folder is expected\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        *(".mnist-lit", ".hydra/config.yaml", "run.log", "checkpoints", "tensorboard"),
        *("tensorboard/hparams.yaml", "figures/x.png", "mlflow.db-journal"),
    ],
)
def test_a_run_writes_through_no_link(name: str, here: Here, tmp_path: Path) -> None:
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    link.symlink_to(tmp_path / "theirs")
    done = here(*NAMED)
    assert (
        done.stderr
        == f"error: run/{name}: is a link or a pipe, and a run writes there; remove it\n"
    )
    assert not list((tmp_path / "theirs").iterdir())


def test_a_run_replaces_no_hard_link(here: Here, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "theirs").write_text("mine")
    (tmp_path / "run/hparams.yaml").hardlink_to(tmp_path / "theirs")
    assert "error: run/hparams.yaml: is a link" in here(*NAMED).stderr
    assert (tmp_path / "theirs").read_text() == "mine"


def test_a_refused_resume_keeps_its_table(here: Here, tmp_path: Path) -> None:
    assert here(*NAMED, "logger=csv").returncode == 0
    (tmp_path / "run/report.json").unlink()
    before = (tmp_path / "run/metrics.csv").read_bytes()
    damaged = tmp_path / "data/MNIST/raw"
    shutil.copytree(PROJECT / "data/MNIST/raw", damaged)
    for file in damaged.glob("train-images*"):
        file.write_bytes(b"damaged")
    assert here("ckpt_path=run", "data.root=data").returncode == 1
    assert (tmp_path / "run/metrics.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["lock", ""])
def test_a_link_is_no_lock(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some versions of filelock empty the target of a link, as this does.
    monkeypatch.setattr(rundir, "FileLock", lambda path, timeout: path.open("w"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/lock").write_text("mine")
    link = tmp_path / "run" / rundir.OURS / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "theirs" / name)
    assert not rundir.is_running(tmp_path / "run")
    assert (tmp_path / "theirs/lock").read_text() == "mine"


@pytest.mark.parametrize("name", ["run.log", "metrics.csv", ".hydra/overrides.yaml"])
def test_a_run_does_not_wait_for_a_pipe(name: str, here: Here, tmp_path: Path) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "run" / name)
    done = here(*NAMED)
    assert done.stderr.startswith(f"error: run/{name}: is a link or a pipe, and a run writes th")


def test_curves_of_others_stay(tiny: Callable[..., DictConfig], tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"logger\.csv: .*metrics\.csv would be replaced; give"):
        train(tiny("logger=csv", f"logger.csv.save_dir={tmp_path}"))
    begun = {"ckpt_path": "elsewhere/checkpoints/last.ckpt", "run_dir": str(tmp_path / "new")}
    config = parse(tiny("logger=csv", f"logger.csv.save_dir={tmp_path}"))
    with pytest.raises(ConfigError, match=r"logger\.csv: .*metrics\.csv would be replaced; give"):
        build_loggers(config.model_copy(update=begun), {})
    own = {"ckpt_path": begun["run_dir"], "run_dir": begun["run_dir"]}
    (tmp_path / "hparams.yaml").write_text("run_dir: /another\n")
    with pytest.raises(ConfigError, match=r"logger\.csv: .*metrics\.csv would be replaced; give"):
        build_loggers(config.model_copy(update=own), {})
    assert (tmp_path / "metrics.csv").read_text() == "mine"
    run, inner = tmp_path / "new", tmp_path / "new/other"
    for folder in (run, inner):
        (folder / rundir.OURS).mkdir(parents=True)
    (inner / "metrics.csv").write_text("of another run")
    config = parse(tiny("logger=csv", "logger.csv.name=other", f"logger.csv.save_dir={run}"))
    with pytest.raises(ConfigError, match=r"logger\.csv: .*metrics\.csv would be replaced; give"):
        build_loggers(config.model_copy(update=own), {})
    (inner / rundir.OURS).rmdir()
    assert build_loggers(config.model_copy(update=own), {})


def test_a_resumed_run_keeps_its_curves_elsewhere(
    tiny: Callable[..., DictConfig], tmp_path: Path
) -> None:
    options = ("logger=csv", f"logger.csv.save_dir={tmp_path / 'curves'}")
    done = train(tiny(*options))
    config = parse(tiny(*options, f"run_dir={done.run_dir}", f"ckpt_path={done.run_dir}"))
    (logger,) = build_loggers(config, {})
    assert Path(str(logger.log_dir)) == tmp_path / "curves"


def test_a_resumed_run_keeps_the_options_it_began_with(here: Here, tmp_path: Path) -> None:
    stop = f"+callbacks.boom={{_target_: {Boom.__module__}.{Boom.__qualname__}, epoch: 1}}"
    assert here(*NAMED, stop).returncode == 1
    before = {path: path.read_bytes() for path in (tmp_path / "run" / ".hydra").iterdir()}
    assert here("ckpt_path=run", "logger=none", "test=false").returncode == 1
    assert {path: path.read_bytes() for path in (tmp_path / "run" / ".hydra").iterdir()} == before


def test_a_finished_run_stays_as_it_is(here: Here, tmp_path: Path) -> None:
    assert here(*NAMED).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    done = here("ckpt_path=run", "logger=none")
    assert done.stderr == "error: hydra.run.dir=./run: this run is finished\n"
    done = here(*NAMED, "ckpt_path=run/checkpoints/best.ckpt")
    assert done.stderr.startswith("error: ")
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_a_run_killed_before_its_first_last_checkpoint_starts_anew(
    here: Here, tmp_path: Path
) -> None:
    assert here(*NAMED).returncode == 0
    (tmp_path / "run" / "report.json").unlink()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    before = (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes()
    assert here(*NAMED).stderr.startswith(
        "error: hydra.run.dir=./run: another run lies there; give"
    )
    (tmp_path / "run" / "checkpoints" / "best.ckpt.old").write_text("of an earlier start")
    files = sorted(tmp_path.rglob("*"))
    assert here(*NAMED, "ckpt_path=auto", "model.dropout=2").returncode == 1
    with FileLock(tmp_path / "run" / rundir.OURS / "lock", is_singleton=False):
        assert "another process" in here(*NAMED, "ckpt_path=auto").stderr
    (tmp_path / "run" / rundir.OURS).rename(tmp_path / "away")
    assert "another run lies there" in here(*NAMED, "ckpt_path=auto").stderr
    (tmp_path / "away").rename(tmp_path / "run" / rundir.OURS)
    assert sorted(tmp_path.rglob("*")) == files
    assert here(*NAMED, "ckpt_path=auto").returncode == 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt.old1").read_bytes() == before
    assert (tmp_path / "run" / "report.json").is_file()


def test_a_run_takes_no_folder_of_a_sweeps_job(here: Here, tmp_path: Path) -> None:
    (tmp_path / "run" / rundir.OURS).mkdir(parents=True)
    (tmp_path / "run" / rundir.JOB).write_text("{}")
    done = here(*NAMED)
    assert done.stderr.startswith(
        "error: hydra.run.dir=./run: a job of a sweep lies there; give ano"
    )
