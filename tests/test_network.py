from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from mnist_lit import summary
from mnist_lit.config import ConfigError, parse
from mnist_lit.network import CompactCNN, ConvBlock, count_parameters

from .conftest import compose_config


def variant(name: str) -> CompactCNN:
    model = parse(compose_config(f"model={name}", "run_dir=unused")).model
    return CompactCNN(model.blocks, model.dropout)


@pytest.mark.parametrize(("name", "parameters"), [("final", 19_382), ("optimized", 7_034)])
def test_variant_has_exactly_its_parameters(name: str, parameters: int) -> None:
    network = variant(name)
    assert count_parameters(network) == parameters
    assert sum(layer.parameters for layer in summary.layers(network)) == parameters


def test_optimized_follows_its_document_block_by_block() -> None:
    """28×28×1 → 14×14×16 → 7×7×32 → 7×7×16, layer for layer."""
    network = variant("optimized").eval()
    seen: list[tuple[str, tuple[int, ...]]] = []
    with torch.no_grad():
        x = torch.randn(1, 1, 28, 28)
        for block in network.blocks:
            assert isinstance(block, ConvBlock)
            x = block(x)
            conv = block.conv
            seen.append(
                (f"{conv.in_channels}->{conv.out_channels} {conv.kernel_size}", x.shape[1:])
            )
            assert conv.bias is not None
    assert seen == [
        ("1->8 (3, 3)", (8, 28, 28)),
        ("8->16 (3, 3)", (16, 14, 14)),
        ("16->16 (1, 1)", (16, 14, 14)),
        ("16->32 (3, 3)", (32, 7, 7)),
        ("32->16 (1, 1)", (16, 7, 7)),
    ]
    names = [layer.name for layer in summary.layers(network)]
    assert names == [
        *("conv1 3×3", "norm1", "relu1"),
        *("conv2 3×3", "norm2", "relu2", "pool2 2×2", "dropout2 0.1"),
        *("conv3 1×1", "norm3", "relu3"),
        *("conv4 3×3", "norm4", "relu4", "pool4 2×2", "dropout4 0.1"),
        *("conv5 1×1", "norm5", "relu5"),
        *("average pool", "dropout 0.1", "linear"),
    ]


@pytest.mark.parametrize(("name", "pixels"), [("final", 22), ("optimized", 12)])
def test_receptive_field_is_what_gradients_reach(name: str, pixels: int) -> None:
    network = variant(name)
    assert summary.receptive_field(network) == pixels
    # Average pooling and no batch statistics: then every input that is seen has a gradient.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
        if isinstance(module, ConvBlock):
            # Declared as BatchNorm2d; only this test takes it out.
            module.norm = nn.Identity()  # type: ignore[assignment]
    image = torch.rand(1, 1, 28, 28).add(1).requires_grad_()
    x: Any = image
    for block in network.blocks:
        assert isinstance(block, ConvBlock)
        x = block.conv(x)
        if block.pool != "none":
            x = nn.functional.avg_pool2d(x, 2)
    x[0, 0, 3, 3].backward()
    assert image.grad is not None
    reached = image.grad[0, 0] != 0
    assert reached.any(0).sum() == reached.any(1).sum() == pixels


def test_summary_counts_the_multiply_adds_of_final() -> None:
    assert sum(layer.multiply_adds for layer in summary.layers(variant("final"))) == 1_853_576


def test_pooling_before_or_after_the_activation_differs_only_in_order() -> None:
    """With positive norm scales max-pool commutes with norm and ReLU when statistics are fixed."""
    before = CompactCNN([{"channels": 4, "pool": "after_conv"}]).eval()
    after = CompactCNN([{"channels": 4, "pool": "after_activation"}]).eval()
    after.load_state_dict(before.state_dict())
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(before(images), after(images))


def test_description_rebuilds_the_network() -> None:
    network = variant("optimized").eval()
    copy = CompactCNN(**network.description).eval()
    copy.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(network(images), copy(images))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "at least one block"),
        ([{"channels": 4, "pool": "after_conv"}] * 5, r"model.blocks\[4\].*1 pixel wide"),
    ],
)
def test_impossible_blocks_are_refused(blocks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompactCNN(blocks)


def test_shapes_are_checked_at_run_time_here() -> None:
    with pytest.raises(TypeCheckError):
        variant("final")(torch.zeros(2, 28, 28))
