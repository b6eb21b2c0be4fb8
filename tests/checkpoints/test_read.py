"""Checkpoints that are damaged, or made by a stranger."""

import io
import random
import re
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.pretrained import checkpoint_of
from mnist_lit.checkpoints.read import LARGEST, MOST_PARTS, read, read_file
from mnist_lit.cli import main
from mnist_lit.data.reopen import reopen
from mnist_lit.errors import CheckpointError, UserError
from mnist_lit.facts import MNIST
from mnist_lit.training.resume import start_from

NANO = checkpoint_of("nano")
HEAD = "network.linear.weight"


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    content, file, draw = NANO.read_bytes(), tmp_path / "flipped.ckpt", random.Random(0)
    whole = read(NANO).network.state_dict()
    refused = 0
    for _ in range(60):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        try:
            found = read(file).network.state_dict()
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert refused >= 40  # the rest of so small a file is space between the parts


def network(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["hyper_parameters"]["network"].update(changed)


def first_block(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["hyper_parameters"]["network"]["blocks"][0].update(changed)


def facts(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["hyper_parameters"].update(facts={**MNIST.plain(), **changed})


def head(change: Callable[[torch.Tensor], object]) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["state_dict"].update({HEAD: change(content["state_dict"][HEAD])})


def doubled(levels: int = 60) -> list[Any]:
    """A nested list: only its levels take memory, but it has 2^levels items."""
    node: list[Any] = [0]
    for _ in range(levels):
        node = [node, node]
    return node


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first_block(pool="zzz"), r"model.blocks\[0\].pool=zzz: should be 'none', 'after"),
        (first_block(repeats=10**6), "repeats=1000000: should be less"),
        (first_block(channels=10**8), r"channels=100000000: should be less than or equal to"),
        (first_block(channels=True), "a valid integer"),
        (first_block(kernel=10**6 + 1), "parameters; at most"),
        (network(blocks=[{"channels": 1} for _ in range(10**5)]), "at most 100 items"),
        (network(side=10**6), "model.side=1000000"),
        (network(classes=7), "that this project's train.py wrote"),
        (network(_target_="a\n\x1b[31m" * 1000), "model._target_=a.n"),
        (facts(name="a\x1b[31m"), "facts.name=.*should match"),
        (facts(side=10**9), "facts.side"),
        (facts(std=float("nan")), "facts.std=nan"),
        (
            facts(source={"_target_": MNIST.source["_target_"], "split_seed": doubled()}),
            "source.split_seed=",
        ),
        (head(lambda w: w.index_fill(1, torch.tensor(0), float("nan"))), r"10 of its 180 .*NaN"),
        (head(lambda w: w.to("meta")), "that this project's train.py wrote"),
        (head(torch.Tensor.to_sparse), "that this project's train.py wrote"),
        (head(torch.Tensor.tolist), "that this project's train.py wrote"),
        (head(lambda w: torch.zeros(1).expand(10**6, 10**6)), "tensors are too large: at most 512"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_description_or_weights_that_cannot_be_are_a_line(
    change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    content = read_file(NANO)
    change(content)
    torch.save(content, tmp_path / "strange.ckpt")
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        reopen(read(tmp_path / "strange.ckpt").facts)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    # For a wrong type, the type checks of the tests raise before ours do.
    assert re.search(f"{words}|that this project's train.py wrote", message)


def archive(path: Path, pickled: bytes, method: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in {"data.pkl": pickled, "version": b"3\n", **parts}.items():
            file.writestr(f"archive/{name}", content)
    return path


def test_archives_that_would_swell_are_not_unpacked(tmp_path: Path) -> None:
    path, none = tmp_path / "bomb.ckpt", b"\x80\x02}."
    zeros, started = bytes(2**26), time.process_time()
    names: dict[str, Any] = {f"{i}": b"" for i in range(MOST_PARTS)}
    for make, words in (
        (
            lambda: archive(path, none, zipfile.ZIP_DEFLATED, zeros=zeros),
            "parts are compressed or overlap",
        ),
        (lambda: archive(path, none, **names), "too many parts"),
        (lambda: path.write_bytes(NANO.read_bytes()[:-400]), "truncated or damaged"),
        (lambda: path.write_bytes(b""), "truncated or damaged"),
    ):
        make()
        with pytest.raises(CheckpointError, match=words):
            read_file(path)
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CheckpointError, match="too large: at most 512 MB are read"):
        read_file(path)
    assert time.process_time() - started < 5


def two_archives(first: bytes, second: bytes) -> bytes:
    """Join archives: torch follows the locator to the first's directory, zipfile reads the last."""
    whole, ends = io.BytesIO(), []
    for content in (first, second):
        start, method = whole.tell(), zipfile.ZIP_DEFLATED if content is first else 0
        with zipfile.ZipFile(whole, "w", method) as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/byteorder", b"little")
        end = whole.getvalue()[-22:]
        parts, size, offset = struct.unpack("<HLL", end[10:20])
        assert offset > start
        whole.seek(-22, io.SEEK_END)
        ends.append(whole.tell())
        record = (44, 45, 45, 0, 0, parts, parts, size, offset)
        whole.write(struct.pack("<4sQHHLLQQQQ", b"PK\6\6", *record))
    whole.write(struct.pack("<4sLQL", b"PK\6\7", 0, ends[0], 1))
    whole.write(struct.pack("<4s4HLLH", b"PK\5\6", *(0xFFFF,) * 4, *(0xFFFFFFFF,) * 2, 0))
    return whole.getvalue()


def test_torch_reads_what_was_checked_and_nothing_else(tmp_path: Path) -> None:
    none, file = b"\x80\x02}.", tmp_path / "double.ckpt"
    text = b"\x80\x02}X\x01\0\0\0aX" + struct.pack("<L", 10**6) + bytes(10**6) + b"s."
    file.write_bytes(two_archives(text, none))
    assert len(torch.load(file, weights_only=True)["a"]) == 10**6
    with suppress(CheckpointError):  # a version of zipfile that finds the first one refuses it
        assert read_file(file) == {}
    old = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(old, "a") as archive:
        archive.writestr("archive/version", b"3\n")
    file.write_bytes(old.getvalue())
    assert torch.load(file, weights_only=True)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_file(file)


def test_weights_that_repeat_one_number_do_not_fill_memory(tmp_path: Path) -> None:
    content, file = read_file(NANO), tmp_path / "one.ckpt"
    network = pretrained.load_pretrained("nano")
    once, many = torch.zeros(1), torch.zeros(10**6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for state, words in (
        ({"network.a": once.expand(3_600_000_000)}, "tensors are too large: at most 512"),
        ({f"network.{i}": many[:] for i in range(200)}, "tensors are too large: at most 512"),
        (5, "cannot be taken: TypeError"),
    ):
        torch.save({**content, "state_dict": state}, file)
        with pytest.raises(CheckpointError, match=words):
            start_from(str(file), network)
    # Tensors of an optimizer too: resuming would expand them in another type.
    large = once.double().expand(10**9)
    for kept in ([{"state": {0: {"m": large}}}], ({large},), {large: 0}, OrderedDict(m=large)):
        torch.save({"optimizer_states": kept}, file)
        with pytest.raises(CheckpointError, match="tensors are too large: at most 512"):
            read_file(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_bytes_long_texts_and_long_histories_are_plain_data(tmp_path: Path) -> None:
    kept = {"bytes": b"\xff" * 10, "text": "ü" * 3_000_000, "rows": [{"n": 0.5}] * 19_000}
    torch.save({**read_file(NANO), "callbacks": kept}, tmp_path / "long.ckpt")
    assert read_file(tmp_path / "long.ckpt")["callbacks"] == kept
    assert read(tmp_path / "long.ckpt").facts.name == "mnist"


def test_a_path_that_cannot_be_is_a_line(tmp_path: Path) -> None:
    for path in (
        f"{tmp_path}/{'x' * 300}",
        "~nobody-of-that-name/x.ckpt",
        f"{tmp_path}",
        "a\0b.ckpt",
    ):
        with pytest.raises(SystemExit, match=r"^error: [^\n]*$"):
            main(["evaluate", path])


def test_a_network_that_gives_nan_is_refused_with_its_name(tmp_path: Path) -> None:
    content = read_file(NANO)
    content["state_dict"]["network.blocks.1.norms.0.weight"].mul_(1e38)
    content["state_dict"]["network.blocks.2.norms.0.weight"].mul_(1e38)
    torch.save(content, tmp_path / "over.ckpt")
    for command in ("report", "compare"):
        with pytest.raises(
            SystemExit, match=r"over.ckpt: gives no number .* of 10,000 images; its"
        ):
            main([command, str(tmp_path / "over.ckpt"), "--output", str(tmp_path / "page.html")])
    with pytest.raises(
        SystemExit, match=r"gives no number \(NaN or infinity\) for [\d,]+ of 10,000"
    ):
        main(["evaluate", str(tmp_path / "over.ckpt"), "--device", "cpu"])


@pytest.mark.usefixtures("few_images")
def test_a_default_of_float64_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    main(["evaluate", "nano", "--device", "cpu"])
    said = capsys.readouterr().out
    torch.set_default_dtype(torch.float64)
    try:
        main(["evaluate", "nano", "--device", "cpu"])
        assert capsys.readouterr().out == said
        main(["report", "nano", "--output", str(page)])
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert "of 1,000 test digits right" in page.read_text("utf-8")
