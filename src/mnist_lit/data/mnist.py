"""MNIST, as Lightning takes it."""

from pathlib import Path
from typing import Literal

from mnist_lit.data.idx import IdxDataModule
from mnist_lit.data.sets import TRAIN, MnistSet


class MNISTDataModule(MnistSet, IdxDataModule):
    """MNIST's images, verified; downloaded only where they are not at hand.

    Args:
        root: The folder of the files, or the one above it; None for this checkout's or the user's
            cache.
        validation: ``test`` validates on the 10,000 test images, ``holdout`` on 5,000 that are
            kept out of training.
        batch_size: Images per training step and process.
        eval_batch_size: Images per step where no gradients are kept.
        train_size: Train on only this many images, equally many of each digit.
        split_seed: Which images are held out, or kept by ``train_size``.
        folds: Cut the 60,000 into so many parts, of which one validates; ``validation`` does not
            count then.
        fold: Which of the parts, from 0.
        seed: Decides, with the epoch, the order of the training images.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        validation: Literal["test", "holdout"] = "test",
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        train_size: int | None = None,
        split_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        seed: int = 0,
    ) -> None:
        IdxDataModule.__init__(
            self,
            *(root or "", validation, batch_size, eval_batch_size, train_size, split_seed),
            folds=folds,
            fold=fold,
            seed=seed,
        )

    def check(self, images: int | None = TRAIN) -> None:
        """See :meth:`IdxDataModule.check`; nothing is read for it."""
        super().check(images)

    def prepare_data(self) -> None:
        """Find the files, or download them, in one process."""
        assert self._folder
