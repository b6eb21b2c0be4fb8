"""Evaluate a trained network on images."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from mnist_lit.data.batches import Images
from mnist_lit.errors import CheckpointError
from mnist_lit.facts import MNIST, Facts

MOST_NUMBERS = 2**28  # in a map of all images of a batch: a gigabyte

TOLD = ("accuracy", "loss", "correct", "total", "accuracy_per_class")  # go into the report


@dataclass(frozen=True)
class Evaluation:
    """A network's answers for all images.

    Attributes:
        probabilities: ``float32 [N, classes]``, on the CPU.
        labels: ``int64 [N]``, on the CPU.
        loss: Mean cross-entropy.
    """

    probabilities: Float[Tensor, "n classes"]
    labels: Int64[Tensor, " n"]
    loss: float

    @property
    def predictions(self) -> Int64[Tensor, " n"]:
        """The most probable class of each image."""
        return self.probabilities.argmax(dim=1)

    @property
    def right(self) -> Bool[Tensor, " n"]:
        """A mask of the right predictions."""
        return self.predictions == self.labels

    @property
    def correct(self) -> int:
        """The number of right predictions."""
        return int(self.right.sum())

    @property
    def total(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """The share of right predictions."""
        return self.correct / self.total

    @property
    def confusion(self) -> Int64[Tensor, "classes classes"]:
        """Counts by true class (row) and predicted class (column)."""
        classes = self.probabilities.shape[1]
        pairs = self.labels * classes + self.predictions
        return pairs.bincount(minlength=classes**2).view(classes, classes)

    @property
    def accuracy_per_class(self) -> list[float | None]:
        """The accuracy for the images of each class; None for a class without images."""
        counts = self.confusion
        shares = (counts.diag() / counts.sum(dim=1)).tolist()
        return [None if math.isnan(share) else share for share in shares]


@torch.inference_mode()
def classify(
    network: nn.Module, images: UInt8[Tensor, "b 1 h w"], facts: Facts = MNIST
) -> Float[Tensor, "b classes"]:
    """Return the logits of images, computed in full precision on their device."""
    # TF32 would round a convolution's input to 10 bits and could change a count between devices.
    with torch.backends.cudnn.flags(allow_tf32=False):
        some = torch.split(images, max(1, MOST_NUMBERS // getattr(network, "widest", 1)))
        return torch.cat([network(facts.normalize(part)) for part in some])


def evaluate(
    network: nn.Module,
    images: Images,
    facts: Facts = MNIST,
    batch_size: int = 1000,
    device: torch.device | str = "cpu",
    name: str = "the network",
) -> Evaluation:
    """Run a network over images in full precision.

    Args:
        network: Maps normalised ``float32 [B, 1, H, W]`` to logits ``[B, classes]``; it is left in
            evaluation mode on ``device``.
        images: The images and their labels.
        facts: Facts of the images, for the normalisation.
        batch_size: Images at a time.
        device: The device to compute on.
        name: Name of the network in an error.

    Raises:
        CheckpointError: An answer is not finite.
        DataError: The labels do not fit the classes.
    """
    facts.check_labels(images.labels, len(images.images))
    network.to(device).eval()
    batches = torch.split(images.images, batch_size)
    logits = torch.cat([classify(network, batch.to(device), facts).cpu() for batch in batches])
    loss = F.cross_entropy(logits, images.labels).item()
    if wrong := int((~F.cross_entropy(logits, images.labels, reduction="none").isfinite()).sum()):
        many = f"gives no number (NaN or infinity) for {wrong:,} of {len(logits):,} images"
        words = "its training diverged, or the file is damaged: train again, with a lower rate"
        raise CheckpointError(f"{name}: {many}; {words}")
    return Evaluation(logits.softmax(dim=1), images.labels, loss)
