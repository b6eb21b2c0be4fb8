"""Reading people's pictures with a trained network."""

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.devices import pick_device
from mnist_lit.errors import PictureError
from mnist_lit.evaluation.evaluate import classify
from mnist_lit.facts import Facts
from mnist_lit.inference.pictures import open_picture, prepare_for, to_gray

BATCH = 256
ONE_PROCESS = 64  # pictures that are prepared sooner than other processes have started
Picture = Image.Image | str | Path | ndarray | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture.

    Attributes:
        probabilities: Of the classes, for MNIST the digits 0 to 9.
        prepared: What the network saw, ``uint8 [side, side]``.
        classes: Their names.
    """

    probabilities: tuple[float, ...]
    prepared: ndarray
    classes: tuple[str, ...]

    @property
    def digit(self) -> int:
        """The most probable class by its number, for MNIST the digit."""
        return self.top(1)[0][0]

    @property
    def name(self) -> str:
        """The name of the most probable class."""
        return self.classes[self.digit]

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the most probable classes and their probabilities, most probable first."""
        return sorted(enumerate(self.probabilities), key=lambda pair: -pair[1])[:count]


def predict(
    images: Picture | Sequence[Picture],
    model: str | Path = "final",
    device: str = "auto",
    trust: Collection[str] = (),
) -> list[Prediction]:
    """Read each picture.

    Args:
        images: One picture or a sequence of them: PIL images, paths of files, arrays
            (``[H, W]`` or ``[H, W, 3 or 4]``, or a batch of those in front) and tensors
            (``[H, W]`` or ``[1, 3 or 4, H, W]``, or a batch), 0–255 as integers or 0–1 as floats.
            A digit may lie anywhere, dark on light or light on dark; MNIST's own images are
            taken as they are. For a network of other data pictures are only resized, unless its
            facts say that they are to be centred.
        model: One of the package, or the path of a checkpoint.
        device: ``auto``, ``cpu``, ``cuda``, …
        trust: Classes that a checkpoint may name, beside those of this project.

    Raises:
        PictureError: A picture cannot be read; it is named by its path or position.
        CheckpointError: There is no such model.
    """
    trained = pretrained.load(model, trust=trust)
    prepared = [
        _prepare(trained.facts, picture, f"picture {number}")
        for number, picture in enumerate(_separate(images))
    ]
    return run(trained, prepared, pick_device(device))


def run(trained: Trained, prepared: Sequence[ndarray], device: torch.device) -> list[Prediction]:
    """Run a network over prepared pictures, ``uint8 [side, side]`` each."""
    if not prepared:
        return []
    network, facts = trained.network.to(device).eval(), trained.facts
    found: list[Prediction] = []
    for start in range(0, len(prepared), BATCH):
        batch = prepared[start : start + BATCH]
        pixels = torch.from_numpy(np.stack(batch)).unsqueeze(1).to(device)
        rows = classify(network, pixels, facts).softmax(dim=1).tolist()
        pairs = zip(rows, batch, strict=True)
        found += [Prediction(tuple(row), image, facts.classes) for row, image in pairs]
    return found


def _separate(images: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(images, Tensor):
        # Channels come first in tensors and last in pictures.
        whole = images.detach().cpu()
        channels = whole.ndim >= 3 and whole.shape[-3] in (1, 3, 4)
        images = (whole.movedim(-3, -1) if channels else whole).numpy()
    if isinstance(images, ndarray):
        single = images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))
        return [images] if single else list(images)
    if isinstance(images, (Image.Image, str, Path)):
        return [images]
    return [picture for one in images for picture in _separate(one)]


def _prepare(facts: Facts, picture: Picture, name: str) -> ndarray:
    if isinstance(picture, (str, Path)):
        return prepare_for(facts, open_picture(Path(picture)), str(picture))
    if isinstance(picture, Image.Image):
        return prepare_for(facts, picture, name)
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype == object:
        raise PictureError(f"{name}: an array of shape {array.shape} and {array.dtype} is no image")
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise PictureError(
                f"{name}: floats from {array.min():g} to {array.max():g}; 0 to 1 are expected"
            )
        array = np.round(255 * array.astype(np.float32))
    if array.min() < 0 or array.max() > 255:
        raise PictureError(
            f"{name}: integers from {array.min()} to {array.max()}; 0 to 255 are expected"
        )
    return prepare_for(facts, Image.fromarray(array.astype(np.uint8)), name)


def find_pictures(arguments: Sequence[str]) -> list[Path]:
    """Return the files that file names, folders and patterns stand for, each once.

    Of a folder these are the files in it with the ending of an image format.

    Raises:
        PictureError: A folder or pattern has none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            known = Image.registered_extensions()
            try:
                inside = sorted(path.iterdir())
            except PermissionError:
                raise PictureError(f"{argument}: no permission to read it") from None
            files = [p for p in inside if p.suffix.lower() in known and p.is_file()]
            if not files:
                raise PictureError(f"{argument}: no pictures in this folder")
        elif not path.exists() and glob.has_magic(argument):
            # The pattern may be absolute, which pathlib's own does not take.
            files = sorted(Path(n) for n in glob.glob(argument, recursive=True))  # noqa: PTH207
            if not files:
                raise PictureError(f"{argument}: no file matches")
        else:
            files = [path]
        found.update(dict.fromkeys(files))
    return list(found)


class Prepared(NamedTuple):
    """A file, and what a network takes of it or what is wrong with it."""

    path: Path
    picture: ndarray | None
    error: str


class _Pictures(Dataset[Prepared]):
    def __init__(self, facts: Facts, paths: Sequence[Path]) -> None:
        self.facts = facts
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Prepared:
        path = self.paths[index]
        try:
            picture = open_picture(path)
            return Prepared(path, prepare_for(self.facts, picture, str(path)), "")
        except PictureError as error:
            return Prepared(path, None, str(error))


def prepare_files(facts: Facts, paths: Sequence[Path]) -> Iterator[list[Prepared]]:
    """Read and prepare files on all cores; yields them in order, some at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield from DataLoader(
        _Pictures(facts, paths),
        batch_size=BATCH if len(paths) > ONE_PROCESS else 1,
        num_workers=(cores or 1) if len(paths) > ONE_PROCESS else 0,
        collate_fn=list,
    )


def sheet(named: Sequence[tuple[Path, Prediction]]) -> Figure:
    """Draw each picture, what the network saw of it, and what it said."""
    columns = min(4, len(named))
    rows = -(-len(named) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.9 * rows), layout="constrained")
    grid: Any = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, (path, prediction) in enumerate(named):
        row, column = divmod(number, columns)
        left, right = grid[row, 2 * column], grid[row, 2 * column + 1]
        left.imshow(_thumbnail(path))
        left.set_title(path.name if len(path.name) < 22 else f"…{path.name[-20:]}", fontsize=8)
        right.imshow(prediction.prepared, cmap="gray", vmin=0, vmax=255)
        probability = prediction.top(1)[0][1]
        right.set_title(f"{prediction.name}   {probability:.1%}", fontsize=10)
    return figure


def _thumbnail(path: Path) -> Image.Image:
    shown = Image.fromarray((255 * to_gray(open_picture(path))).astype(np.uint8)).convert("RGB")
    shown.thumbnail((200, 200))
    return shown
