"""The images that a network was trained on, opened again for its evaluation."""

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
    """Make the data set or data module that a checkpoint's facts name; nothing is read yet.

    Args:
        facts: Of the checkpoint.
        root: The folder of the images, if they have one.
        trust: Classes that may be imported, beside those of this project.

    Raises:
        ConfigError: The checkpoint says which images validate by values that are impossible.
        DataError: It is not known where the images are.
        TrustError: The data module is a class that is not trusted.
    """
    arguments = {key: value for key, value in facts.source.items() if not key.startswith("_")}
    target = facts.source.get("_target_")
    if target is None:
        raise DataError(f"{facts.name}: the checkpoint does not say what its images come from")
    validated(Target, target, f"{facts.name}: source._target_")
    if target == IDX and root is None:
        raise DataError(f"{facts.name}: name the folder of its images with --data-root FOLDER")
    if target in SETS:
        place = f"{facts.name}: the checkpoint's source"
        return validated(SETS[target], {**arguments, "root": root}, place)
    if root is not None:
        arguments["root"] = str(root.expanduser())
    # Called as it is, not built as a config is: classes within the arguments are not trusted.
    make = check({"_target_": trusted(target, trust), **arguments}, "data")
    return make(**arguments)


def split(data: Any, name: Split, facts: Facts) -> Images:
    """Return the training, held-out or test images of a data set or data module.

    Of a data module these are what its loaders give.

    Raises:
        DataError: They are missing or damaged, or not such images as the facts say.
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
        known = f"{facts.side} pixels a side and {len(facts.classes)} classes were trained on"
        words = f"these images have {side} pixels and {classes} classes"
        raise DataError(f"{facts.name}: {known}; {words}")
    return images
