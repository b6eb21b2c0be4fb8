"""Runs that are killed, or whose disk fills, and are resumed: do they lose anything?

python benchmarks/faults.py killed /dev/shm                   # results/faults.json
mount -t tmpfs -o size=8m tmpfs /mnt/small                    # as root
python benchmarks/faults.py full /mnt/small

A chain is one run of `nano`, twelve short epochs, by ``train.py``. `killed`: it gets SIGKILL, as
when a machine crashes, and is resumed with ``ckpt_path=FOLDER``; this happens twice, then it may
end. The first SIGKILL comes at any time, the second while a file is being written. `full`: at any
time the disk is filled completely; the run must end with one line and exit code 1; then the disk
gets space again, and the run is resumed. After each fault every file of the run must be whole. At
the end weights, optimizer, average and epoch table must be, bit for bit, those of a run without
faults. The folder must be on another file system than the temporary one, because a file that is
moved between them is copied.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from tqdm import tqdm

from mnist_lit.files import UNFINISHED

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "faults.json"
OPTIONS = (
    *("experiment=nano", "trainer=cpu", "trainer.max_epochs=12", "data.train_size=1280"),
    *("data.batch_size=64", "requirements.enforce=false"),
)
PATIENCE = 300  # seconds, for a process that should end
TIMES = ("seconds", "train_seconds")


@dataclass
class Chain:
    """The result of one chain.

    Attributes:
        damaged: Files that were not whole after a fault.
        faults: Number of faults.
        drafts: Number of faults while a file was being written.
        wrong: Messages and exit codes that were not one line and 1 after the disk was full.
        differs: Names of values that differ from a run without faults.
    """

    damaged: list[str] = field(default_factory=list)
    faults: int = 0
    drafts: int = 0
    wrong: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing was lost."""
        return not (self.damaged or self.wrong or self.differs)


def start(run: Path) -> "subprocess.Popen[str]":
    """Start a run, or resume it if it has a checkpoint."""
    last = run / "checkpoints" / "last.ckpt"
    words = [f"ckpt_path={run}"] if last.is_file() else [*OPTIONS, f"hydra.run.dir={run}"]
    return subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def drafts(run: Path) -> bool:
    """Return whether a file of a run is being written."""
    return any(name.startswith(UNFINISHED) for _, _, names in os.walk(run) for name in names)


def wait(process: "subprocess.Popen[str]", run: Path, seconds: float, aimed: bool) -> bool:
    """Wait for the first checkpoint of a process and for some time more, or until it ends.

    Args:
        process: The process of the run.
        run: The folder of the run.
        seconds: Time to wait after that checkpoint.
        aimed: Whether to wait also until a file is being written.

    Returns:
        Whether a file is being written.
    """
    checkpoints = run / "checkpoints"
    before = checkpoints.stat().st_mtime_ns if checkpoints.is_dir() else 0
    while process.poll() is None:
        if checkpoints.is_dir() and checkpoints.stat().st_mtime_ns > before:
            break
        time.sleep(0.001)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    while aimed and process.poll() is None and not drafts(run):
        pass
    return drafts(run)


def damaged(run: Path) -> Iterator[str]:
    """Yield the files of a run that are not whole, except drafts and files that are appended to."""
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name.startswith(UNFINISHED):
            continue
        try:
            if path.suffix == ".ckpt":
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        raise ValueError("sums differ")
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".html":
                if "</html>" not in path.read_text(encoding="utf-8"):
                    raise ValueError("cut off")
            elif path.suffix == ".yaml":
                yaml.safe_load(path.read_text(encoding="utf-8"))
        except Exception as error:  # each kind of file raises other exceptions
            yield f"{path.name}: {error}"


def plain(run: Path) -> dict[str, Any]:
    """Return all values that a finished run has computed, by names, without times."""
    found: dict[str, Any] = {"metrics.csv": (run / "metrics.csv").read_text(encoding="utf-8")}

    def add(name: str, node: Any) -> None:
        if isinstance(node, (dict, list, tuple)):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            for key, value in items:
                if key not in TIMES:
                    add(f"{name}.{key}", value)
        else:
            found[name] = node

    for name in ("best", "last"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "averaging_state"):
            add(f"{name}.{key}", content.get(key))
        add(f"{name}.History", content["callbacks"]["History"])
    return found


def differences(run: Path, unbroken: dict[str, Any]) -> Iterator[str]:
    """Yield the names of values that differ in any bit from a run without faults."""
    ours = plain(run)
    for name in sorted({*ours, *unbroken}):
        one, other = ours.get(name), unbroken.get(name)
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            same = torch.equal(one, other)
        else:
            same = one == other
        if not same:
            yield name


def end(run: Path) -> list[str]:
    """Resume a run until it ends; return its error, if any."""
    process = start(run)
    said = process.communicate(timeout=PATIENCE)[1]
    return [] if process.returncode == 0 else [f"exit {process.returncode}: {said[-300:]}"]


def killed(run: Path, rng: random.Random, seconds: float, unbroken: dict[str, Any]) -> Chain:
    """Kill a run twice, then resume it to its end."""
    chain = Chain()
    for aimed in (False, True):
        process = start(run)
        chain.drafts += wait(process, run, rng.uniform(0, seconds), aimed)
        if process.poll() is None:
            chain.faults += 1
            process.kill()
        process.communicate()
        chain.damaged += damaged(run)
        if (run / "report.html").is_file():  # it has ended
            break
    else:
        chain.wrong += end(run)
    chain.differs += differences(run, unbroken)
    return chain


def full(run: Path, rng: random.Random, seconds: float, unbroken: dict[str, Any]) -> Chain:
    """Fill the disk of a run, and resume the run when there is space again."""
    chain = Chain()
    filler = run.parent / "filler"
    process = start(run)
    chain.drafts += wait(process, run, rng.uniform(0, seconds), aimed=False)
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    said = process.communicate(timeout=PATIENCE)[1]
    if process.returncode != 0:
        chain.faults += 1
        if process.returncode != 1 or said.count("\n") != 1 or not said.startswith("error: "):
            chain.wrong.append(f"exit {process.returncode}: {said[-600:]}")
    chain.damaged += damaged(run)
    filler.unlink()
    if process.returncode != 0:
        chain.wrong += end(run)
    chain.differs += differences(run, unbroken)
    return chain


def chains(kind: str, folder: Path, number: int, jobs: int, seed: int) -> list[Chain]:
    """Run chains of a kind in a folder, and empty it afterwards."""
    if folder.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        raise SystemExit(f"error: {folder} lies on the same file system as the temporary folder")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        first = Path(place) / "unbroken"
        process = start(first)
        wait(process, first, 0, aimed=False)
        began = time.monotonic()
        process.communicate(timeout=PATIENCE)
        seconds, unbroken = time.monotonic() - began, plain(first)
        shutil.rmtree(first)

        def one(index: int) -> Chain:
            run = Path(place) / str(index)
            try:
                return {"killed": killed, "full": full}[kind](
                    run, random.Random(f"{seed} {index}"), seconds, unbroken
                )
            finally:
                shutil.rmtree(run)

        with ThreadPoolExecutor(jobs) as pool:
            return list(tqdm(pool.map(one, range(number)), total=number, unit="chain"))


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("killed", "full"))
    parser.add_argument("folder", type=Path, help="on another file system; `full` fills it")
    parser.add_argument("--chains", type=int, default=20, help="default: 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times; default: 0")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    return parser


def main() -> None:
    """Run chains as the command line says."""
    options = command_line().parse_args()
    jobs = 1 if options.kind == "full" else 2  # which share a disk
    found = chains(options.kind, options.folder, options.chains, jobs, options.seed)
    results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    results[options.kind] = {
        "chains": len(found),
        "seed": options.seed,
        "faults": sum(chain.faults for chain in found),
        "while_writing": sum(chain.drafts for chain in found),
        "bit_for_bit": sum(chain.whole for chain in found),
        "not_so": [vars(chain) for chain in found if not chain.whole],
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results[options.kind], indent=1))


if __name__ == "__main__":
    main()
