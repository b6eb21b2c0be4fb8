"""The output of a run, on terminals of two widths and in its log."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mnist_lit.busy import crowded
from mnist_lit.errors import RunError
from mnist_lit.training.console import kept
from mnist_lit.training.train import train
from tests.conftest import TINY, Here
from tests.own import Boom, Warns

Make = Callable[..., DictConfig]


BOOM = f"{Boom.__module__}.{Boom.__qualname__}"


@contextmanager
def terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Make standard output a terminal of a width; yields its output."""
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    sent: list[bytes] = []

    def read() -> None:
        while True:
            try:
                sent.append(os.read(control, 65_536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(terminal, "w") as stdout:
        patch.setattr(sys, "stdout", stdout)
        yield sent
    reader.join()
    os.close(control)


@pytest.mark.parametrize("columns", [80, 120, 0])
def test_a_terminal_shows_a_bar_and_nothing_is_cut(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal(columns, monkeypatch) as sent:
        result = train(tiny("callbacks=plain", "trainer.max_epochs=3", "data.train_size=1280"))
    text = b"".join(sent).decode().replace(str(result.run_dir), "outputs/2026-11-25/20-00-00")
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Z]", "", text))
    assert max(map(len, lines)) <= (columns or 80)
    bars = [line for line in lines if "left" in line]
    # tqdm leaves the last column free; a console that does not say how wide it is gets 80.
    assert len(bars[-1]) == (columns - 1 if columns else 80)
    last = re.fullmatch(
        r"epoch  3/3 \|(.+)\| +\d+%, \d\d:\d\d left, loss=\d\.\d+, accuracy=\d+\.\d\d%, lr=\S+ *",
        bars[-1],
    )
    assert last, bars[-1]
    assert len(last[1]) >= 8
    assert sum(line.startswith("epoch") and " s" in line for line in lines) == 3


def test_a_file_gets_no_bar(tiny: Make, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny("callbacks=plain"))
    out, err = capsys.readouterr()
    assert err == ""
    assert "left" not in out
    assert "\r" not in out
    assert out.count("\nepoch  ") == 2


def test_a_failure_is_one_line_and_its_traceback_is_in_the_log(here: Here, tmp_path: Path) -> None:
    done = here(*TINY, f"callbacks.boom._target_={BOOM}", "hydra.run.dir=run")
    log = tmp_path / "run" / "run.log"
    assert done.returncode == 1
    assert done.stderr == (
        "error: ZeroDivisionError: a defect; the whole traceback is in run/run.log\n"
    )
    kept = log.read_text()
    assert "Traceback (most recent call last)" in kept
    assert 'raise ZeroDivisionError("a defect' in kept
    assert "training on cpu" in kept
    assert (tmp_path / "run" / "packages.txt").is_file()


def test_no_codes_of_a_checkpoint_come_into_the_log(tmp_path: Path) -> None:
    with pytest.raises(RunError), kept(tmp_path / "run.log"):
        raise KeyError("network.\x1b]0;title\x07") from RuntimeError("\x1b[31m\u202e")
    log = (tmp_path / "run.log").read_text()
    assert "RuntimeError: \\x1b[31m\\u202e\n" in log
    assert "\x1b" not in log


def test_from_python_the_cause_is_at_hand(tiny: Make) -> None:
    cfg = tiny()
    OmegaConf.update(cfg, "callbacks", {"boom": {"_target_": BOOM}})
    with pytest.raises(RunError, match=r"the whole traceback is in .*run\.log") as caught:
        train(cfg)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.filterwarnings("always:mind the step")
def test_a_warning_is_seen_and_kept(tiny: Make, capfd: pytest.CaptureFixture[str]) -> None:
    cfg = tiny()
    warns = f"{Warns.__module__}.{Warns.__qualname__}"
    OmegaConf.update(cfg, "callbacks", {"warns": {"_target_": warns}})
    result = train(cfg)
    assert "mind the step" in capfd.readouterr().err
    assert "mind the step" in (result.run_dir / "run.log").read_text()


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ("2.61 2.99 4.06 3/109 5203\n", True),
        ("2.61 2.99 4.06 1/109 5203\n", False),
        ("0.31 2.99 4.06 3/109 5203\n", False),
    ],
)
def test_a_machine_with_other_work_is_recognised(
    load: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: load)
    assert crowded() is expected
