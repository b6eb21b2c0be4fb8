"""What the tests of exports share."""

from typing import Any

import pytest
import torch

from mnist_lit.data import reopen
from mnist_lit.data.batches import Images
from mnist_lit.export import run


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check an export on the first 1,000 images; each format has a test with all of them."""

    def split(*arguments: Any) -> Images:
        return reopen.split(*arguments).subset(torch.arange(1000))

    monkeypatch.setattr(run, "split", split)
