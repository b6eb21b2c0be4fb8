"""Read people's pictures with a trained network."""

import copy
import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from math import ceil
from numbers import Number
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained
from mnist_lit.devices import pick_device
from mnist_lit.errors import PictureError
from mnist_lit.facts import MNIST, Facts
from mnist_lit.inference.files import REDUCED, labelled_pages, name_of, open_picture, refusing
from mnist_lit.inference.pictures import Prepared, prepare_for, to_gray
from mnist_lit.inference.reading import Reading, read_all
from mnist_lit.text import for_terminal

BATCH = 256  # files at a time
ROW = 8  # digits in one row of a drawing
SEEN = 240  # pixels, longer side of a drawn picture
ONE_PROCESS = 64  # pictures; preparing so many takes less time than starting processes
CHANNELS = (1, 3, 4)

# A forked process inherits OpenMP's pool without its threads; OpenMP would wait for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def predict(
    images: Any,
    model: str | Path | nn.Module | Trained = "final-world",
    device: str = "auto",
    trust: Collection[str] = (),
    single: bool = False,
) -> list[Reading]:
    """Read the digits of each picture, and return one ``Reading`` per picture.

    Digits may lie anywhere, dark on light or light on dark. MNIST's own images are read as they
    are. The reading of a picture without digits has none. A network of other data gives one answer
    per picture: the picture is prepared as MNIST's are if the network's facts are ``centred``, and
    only resized otherwise.

    The shape of an array or tensor decides what it holds; lists of numbers and data frames are
    converted to arrays. ``side`` is the side of the training images, 28 for MNIST. The first line
    that fits counts:

    - ``[side²]``: one image
    - ``[N, side²]``: N images, one in each row, unless N is ``side²``
    - ``[H, W]``: one picture
    - ``[N, side, side]``: N images; never one picture of N channels
    - ``[C, H, W]``: one picture of C channels, for a tensor; C is 1, 3 or 4
    - ``[H, W, C]``: one picture of C channels
    - ``[N, H, W]``: N pictures
    - ``[N, C, H, W]`` or ``[N, H, W, C]``: N pictures of C channels; where both fit, the first for
      a tensor and the second for an array

    Integers are from 0 to 255. Booleans are black and white. Floats are from 0 to 1 or, if all are
    whole numbers, from 0 to 255.

    Args:
        images: One picture or any number of them: PIL images, paths of files, open files, the
            content of files as bytes, arrays and tensors. Labels are ignored, in an item
            ``(image, label)`` of a data set and in a batch ``(images, labels)``.
        model: The name of a network of the package, the path of a checkpoint or of a run's folder,
            or a network, which is not changed. A network without ``facts`` is taken as trained on
            MNIST.
        device: ``auto``, ``cpu``, ``cuda``, …
        trust: Classes that a checkpoint may name, beside those of this project.
        single: Each picture has exactly one digit, whatever else is on it.

    Raises:
        PictureError: A picture cannot be decoded; the message has its path or position.
        CheckpointError: There is no such model, or it does not return one number per class.
    """
    if isinstance(model, (nn.Module, Trained)):
        network: Any = getattr(model, "network", model)
        trained = Trained(copy.deepcopy(network), getattr(model, "facts", MNIST))
    else:
        trained = pretrained.load(model, trust=trust)
    named = _named(images, trained.facts.side)
    prepare = partial(prepare_for, trained.facts, single=single)
    readings: list[Reading] = []
    while some := [*islice(named, BATCH)]:

        def further(numbers: Sequence[int], stage: int, some: Any = some) -> Iterator[Prepared]:
            for name, image in (some[number] for number in numbers):
                yield prepare(image, name=name, stage=stage)

        pages = [prepare(image, name=name) for name, image in some]
        readings += read_all(trained, pages, pick_device(device), further)
    return readings


def _named(images: Any, side: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield each picture with its name in errors."""
    number = 0
    for one in _flat(images):
        name = name_of(one, f"picture {number}")
        for image in _opened(one, side, name):
            yield name, image
            number += 1


def _flat(images: Any) -> Iterator[Any]:
    """Yield the pictures of nested lists one by one, without labels."""
    whole = isinstance(images, (str, bytes, bytearray, memoryview, Image.Image, Tensor))
    whole |= hasattr(images, "read") or hasattr(images, "__array__") or _are_numbers(images)
    if whole or not (isinstance(images, Iterable) or hasattr(images, "__getitem__")):
        yield images
    elif _are_labelled(images):
        yield from _flat(images[0])
    else:
        for one in images:
            yield from _flat(one)


def _are_numbers(images: Any) -> bool:
    """Return whether this is a number or a nested list of numbers."""
    if isinstance(images, (list, tuple)) and images:
        return _are_numbers(images[0])
    return isinstance(images, Number)


def _are_labelled(pair: Any) -> bool:
    """Return whether this is a data set's item with its label, or a batch with its labels."""
    if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
        return False
    images, labels = pair
    batch = isinstance(images, (ndarray, Tensor)) and images.ndim > 1
    shapes = [(), (len(images),)] if batch else [()]
    return isinstance(labels, (int, ndarray, np.generic, Tensor)) and np.shape(labels) in shapes


def _opened(one: Any, side: int, name: str) -> Iterator[Image.Image]:
    """Yield an image, the picture of a file, or the pictures of an array or tensor."""
    if isinstance(one, Image.Image):
        yield one
    elif hasattr(one, "read") or isinstance(one, (str, Path, bytes, bytearray, memoryview)):
        yield open_picture(one, name)
    else:
        with refusing(name):
            pictures = _split(one, side)
        for picture in pictures:
            yield Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)


def _split(images: Any, side: int) -> UInt8[ndarray, "n h w *c"]:
    """Split an array or tensor into pictures; ``predict`` documents the shapes."""
    tensor = isinstance(images, Tensor)  # channels are first; in arrays they are last
    if tensor:
        images = images.detach().cpu()
        images = images.float() if images.is_floating_point() else images  # bfloat16
    array = np.asarray(images)
    shape, rank = array.shape, array.ndim
    if rank in (1, 2) and shape[-1] == side**2 and shape != (side**2, side**2):
        array = array.reshape(-1, side, side)
    elif rank == 2:
        array = array[None]
    elif rank == 3 and shape[1:] != (side, side):
        if tensor and shape[0] in CHANNELS:
            array = np.moveaxis(array, 0, -1)[None]
        elif shape[2] in CHANNELS:
            array = array[None]
    elif rank == 4 and shape[1] in CHANNELS and (tensor or shape[3] not in CHANNELS):
        array = np.moveaxis(array, 1, -1)
    fits = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in CHANNELS)
    if not fits or 0 in array.shape[1:] or array.dtype.kind not in "biuf":
        raise PictureError(
            f"{array.dtype} {list(shape)} is no image; [H, W], [N, {side}, {side}], "
            f"[N, {side**2}], [N, C, H, W] or [N, H, W, C] is expected, C being 1, 3 or 4"
        )
    return _pixels(array)


def _pixels(array: ndarray) -> UInt8[ndarray, "..."]:
    """Convert booleans, floats from 0 to 1, or whole numbers to ``uint8``."""
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    real = array.dtype.kind == "f"
    if array.dtype == bool or (real and low >= 0 and high <= 1):
        return np.round(255 * array.astype(np.float32)).astype(np.uint8)
    if not (low >= 0 and high <= 255) or (real and (array % 1).any()):  # NaN fails too
        found = f"{'floats' if real else 'integers'} from {low:g} to {high:g}"
        raise PictureError(f"{found}; 0 to 1, or whole numbers to 255, are expected")
    return array.astype(np.uint8)


class Page(NamedTuple):
    """A page: the path or content of its file, and its label, empty for the only page."""

    source: Path | bytes
    label: str

    @property
    def name(self) -> str:
        """Its name in results, as ``scan.pdf#2``; ``-`` is standard input."""
        return ("-" if isinstance(self.source, bytes) else str(self.source)) + self.label

    def open(self) -> Image.Image:
        """Read it again."""
        found = labelled_pages(self.source, self.name)
        return next(image for label, image in found if label == self.label)


Result = tuple[Page, Prepared | PictureError]  # the digits of a page, or why it cannot be decoded


def prepare_files(facts: Facts, sources: Sequence[Any], single: bool) -> Iterator[list[Result]]:
    """Read and prepare files (paths or contents) on all cores; yields batches, in order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Other ways to start processes import modules of the working folder.
    forks = multiprocessing.get_start_method() == "fork"
    size, workers = (BATCH, cores or 1) if len(sources) > ONE_PROCESS and forks else (1, 0)
    data: Any = sources  # DataLoader accepts any sequence, against its types
    prepare = partial(_prepare_some, facts, single)
    yield from DataLoader(data, size, num_workers=workers, collate_fn=prepare)


def _prepare_some(facts: Facts, single: bool, sources: Sequence[Path | bytes]) -> list[Result]:
    prepared: list[Result] = []
    for source in sources:
        name = name_of(source, "standard input")
        try:
            for label, image in labelled_pages(source, name):
                found = prepare_for(facts, image, single, name + label)
                prepared.append((Page(source, label), found))
        except PictureError as error:
            prepared.append((Page(source, ""), error))
    return prepared


def prepare_again(
    facts: Facts, single: bool, pages: Sequence[Page], numbers: Sequence[int], stage: int
) -> Iterator[Prepared]:
    """Read some pages of files again, and prepare their further views, in order."""
    for source, some in groupby((pages[number] for number in numbers), attrgetter("source")):
        found: dict[str, Prepared] = {page.label: "the file has changed" for page in some}
        name = name_of(source, "standard input")
        with suppress(PictureError):
            for label, image in labelled_pages(source, name):
                if label in found:
                    found[label] = prepare_for(facts, image, single, name + label, stage)
        yield from found.values()


def sheet(named: Sequence[tuple[Page, Reading]]) -> Any:
    """Draw each picture with boxes around its digits, the network's input, and its answer.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(named))
    rows = -(-len(named) // columns)
    figure = Figure(figsize=(3.2 * columns, 1.9 * rows), layout="constrained")
    grid: Any = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for (page, reading), (left, right) in zip(named, grid.reshape(-1, 2), strict=False):
        with suppress(PictureError):  # the file may be gone
            left.imshow(boxed(page.open(), reading))
        left.set_title(for_terminal(Path(page.name).name, 22), fontsize=8, parse_math=False)
        if reading.digits:
            right.imshow(montage(reading), cmap="gray", vmin=0, vmax=255)
        right.set_title(for_terminal(reading, 22), fontsize=8, parse_math=False)
    return figure


def montage(reading: Reading) -> ndarray:
    """Return the network's inputs for one or more digits, side by side; ``uint8 [h, w]``."""
    seen = [np.pad(digit.prepared, 1, constant_values=96) for digit in reading.digits]
    across = ceil(len(seen) ** 0.5) if len(seen) > ROW else len(seen)
    seen += [np.full_like(seen[0], 96)] * (-len(seen) % across)
    rows = [seen[first : first + across] for first in range(0, len(seen), across)]
    return np.asarray(np.block(rows))


def boxed(image: Image.Image, reading: Reading) -> Image.Image:
    """Return a reduced copy of a picture, with a box around each digit."""
    gray = to_gray(image)
    seen = Image.fromarray((255 * gray).astype(np.uint8)).convert("RGB")
    seen.thumbnail((SEEN, SEEN))
    scale = seen.width / (gray.shape[1] * image.info.get(REDUCED, 1))
    pen = ImageDraw.Draw(seen)
    for digit in reading.digits:
        left, top, right, bottom = (scale * edge for edge in digit.box)
        pen.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=(220, 40, 40))
    return seen
