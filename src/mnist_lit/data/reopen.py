"""Open the data set of a trained network again, for its evaluation."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mnist_lit.data.batches import Images, collect
from mnist_lit.data.datasets import IDX, IdxSet, ImageSet, MnistSet, Split
from mnist_lit.errors import DataError
from mnist_lit.facts import MNIST, Facts
from mnist_lit.targets import check, trusted
from mnist_lit.validation import Target, validated

SETS = {IDX: IdxSet, MNIST.source["_target_"]: MnistSet}


def reopen(facts: Facts, root: Path | None = None, trust: Collection[str] = ()) -> Any:
    """Build the data set or data module that a checkpoint's facts name; no image is read yet.

    Args:
        facts: The facts of the checkpoint.
        root: Folder of the images; None for the default.
        trust: Classes of other packages that may be imported.

    Raises:
        ConfigError: The facts have impossible values for the split.
        DataError: The place of the images is unknown.
        TrustError: The class of the data module is not trusted.
    """
    arguments = {key: value for key, value in facts.source.items() if not key.startswith("_")}
    target = facts.source.get("_target_")
    if target is None:
        raise DataError(f"{facts.name}: the checkpoint does not name its data set")
    validated(Target, target, f"{facts.name}: source._target_")
    if target == IDX and root is None:
        raise DataError(f"{facts.name}: name the folder of its images with --data-root FOLDER")
    if target in SETS:
        place = f"{facts.name}: the checkpoint's source"
        return validated(SETS[target], {**arguments, "root": root}, place)
    if root is not None:
        arguments["root"] = str(root.expanduser())
    # A plain call: `instantiate` would also import classes named in the arguments, untrusted.
    make = check({"_target_": trusted(target, trust), **arguments}, "data")
    return make(**arguments)


def split(data: Any, name: Split, facts: Facts) -> Images:
    """Return the training, held-out or test images of a data set or data module.

    A data module returns them by its dataloaders.

    Raises:
        DataError: The images are missing or damaged, or do not fit the facts.
    """
    if isinstance(data, ImageSet):
        images = data.images(name)
    else:
        data.prepare_data()
        data.setup("test" if name == "test" else "fit")
        loaders = {"train": data.train_dataloader, "holdout": data.val_dataloader}
        images = collect(loaders.get(name, data.test_dataloader)())
    if not len(images):
        raise DataError(f"{facts.name}: there are no {name} images")
    side, classes = images.images.shape[-1], int(images.labels.max()) + 1
    if side != facts.side or classes > len(facts.classes):
        known = f"images of {facts.side} pixels a side and {len(facts.classes)} classes"
        words = f"these have {side} pixels and {classes} classes"
        raise DataError(f"{facts.name}: the network was trained on {known}; {words}")
    return images
