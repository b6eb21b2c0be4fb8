"""Evaluating a trained network on a split of MNIST."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mnist_lit.data import Digits, normalize
from mnist_lit.network import CLASSES


@dataclass(frozen=True)
class Evaluation:
    """What a network said of every image.

    Attributes:
        probabilities: ``float32 [N, 10]``, on the CPU.
        labels: ``int64 [N]``, on the CPU.
        loss: Mean cross-entropy.
    """

    probabilities: Float[Tensor, "n 10"]
    labels: Int64[Tensor, " n"]
    loss: float

    @property
    def predictions(self) -> Int64[Tensor, " n"]:
        """The most probable digit of each image."""
        return self.probabilities.argmax(dim=1)

    @property
    def correct(self) -> int:
        """How many predictions are right."""
        return int((self.predictions == self.labels).sum())

    @property
    def total(self) -> int:
        """How many images there are."""
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """The share of right predictions."""
        return self.correct / self.total

    @property
    def confusion(self) -> Int64[Tensor, "10 10"]:
        """Counts by true digit (row) and predicted digit (column)."""
        return multiclass_confusion_matrix(self.predictions, self.labels, CLASSES)

    @property
    def per_digit(self) -> list[float]:
        """The accuracy among the images of each digit, 0 to 9 (0 for a digit that is absent)."""
        counts = self.confusion
        return (counts.diag() / counts.sum(dim=1).clamp(min=1)).tolist()


@torch.inference_mode()
def classify(network: nn.Module, images: UInt8[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
    """Return the logits of images, computed in full precision on the device that they are on."""
    # TF32 would round a convolution's input to 10 bits and could change a count between devices.
    with torch.backends.cudnn.flags(allow_tf32=False):
        return network(normalize(images))


def evaluate(
    network: nn.Module, digits: Digits, batch_size: int = 1000, device: torch.device | str = "cpu"
) -> Evaluation:
    """Run a network over images in full precision.

    Args:
        network: Maps normalised ``float32 [B, 1, 28, 28]`` to logits ``[B, 10]``; it is left in
            evaluation mode on ``device``.
        digits: The images.
        batch_size: Images at a time.
        device: Where to compute.
    """
    network.to(device).eval()
    batches = torch.split(digits.images, batch_size)
    logits = torch.cat([classify(network, images.to(device)).cpu() for images in batches])
    loss = F.cross_entropy(logits, digits.labels).item()
    return Evaluation(logits.softmax(dim=1), digits.labels, loss)
