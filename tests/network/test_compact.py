from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_lit import compose
from mnist_lit.config.check import parse
from mnist_lit.errors import ConfigError
from mnist_lit.network import fused, summary
from mnist_lit.network.compact import CompactCNN, ConvBlock, count_parameters


def variant(name: str) -> CompactCNN:
    model = parse(compose(f"model={name}", "run_dir=unused")).model
    return CompactCNN(model["blocks"], model["dropout"])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *(("final", 19_382), ("optimized", 7_034), ("flagship", 18_930), ("small", 9_994)),
        *(("tiny", 3_978), ("micro", 1_998), ("nano", 990), ("pico", 677)),
    ],
)
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


SHARED: list[dict[str, Any]] = [
    {"channels": 6, "pool": "after_conv"},
    {"channels": 6, "repeats": 3, "residual": True, "pool": "after_activation"},
    {"channels": 4, "kernel": 1},
]
SEPARABLE: list[dict[str, Any]] = [
    {"channels": 6, "pool": "after_conv"},
    {"channels": 6, "repeats": 3, "residual": True, "separable": True, "pool": "after_activation"},
    {"channels": 4, "kernel": 1, "norm_scale": False},
]

UNPADDED: list[dict[str, Any]] = [
    {"channels": 4, "kernel": 5, "padding": False, "pool": "after_conv"},
    {"channels": 6, "separable": True, "padding": False},
    {"channels": 6, "padding": False, "pool": "after_activation"},
    {"channels": 5, "separable": True, "padding": False},
]


@pytest.mark.parametrize(
    ("network", "pixels"),
    [
        (variant("final"), 22),
        (variant("optimized"), 12),
        (CompactCNN(SHARED), 18),
        (CompactCNN(SEPARABLE), 18),
    ],
)
def test_receptive_field_is_what_gradients_reach(network: CompactCNN, pixels: int) -> None:
    assert summary.table(network, "a", 28).endswith(f", features see {pixels} pixels")
    # With average pooling and without batch statistics, every pixel in the field has a gradient.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    image = torch.rand(1, 1, 28, 28).add(1).requires_grad_()
    x: Any = image
    for block in network.blocks:
        assert isinstance(block, ConvBlock)
        for _ in block.norms:
            x = block.conv(block.depthwise(x))
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


def test_a_repeated_convolution_costs_weights_once_and_a_norm_each_time() -> None:
    block = {"channels": 6, "residual": True}
    alone, thrice = (CompactCNN([{"channels": 6}, {**block, "repeats": n}]) for n in (1, 3))
    assert count_parameters(thrice) - count_parameters(alone) == 2 * (6 + 6)
    once, again = (
        next(r for r in summary.layers(n) if r.name.startswith("conv2")) for n in (alone, thrice)
    )
    assert again.name == "conv2 3×3 ×3"
    assert again.parameters == once.parameters
    assert again.multiply_adds == 3 * once.multiply_adds


def test_a_repeated_residual_convolution_is_added_to_what_goes_in_each_time() -> None:
    network = CompactCNN(SHARED).eval()
    block = network.blocks[1]
    assert isinstance(block, ConvBlock)
    for norm in block.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.uniform_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 14, 14)
    assert isinstance(block.conv, nn.Conv2d)
    expected = x
    for norm in block.norms:
        expected = expected + F.relu(norm(F.conv2d(expected, block.conv.weight, padding=1)))
    torch.testing.assert_close(block(x), F.max_pool2d(expected, 2))


def test_a_separable_convolution_filters_each_channel_and_then_mixes_them() -> None:
    network = CompactCNN([{"channels": 6}, {"channels": 4, "separable": True}]).eval()
    block = network.blocks[1]
    assert isinstance(block, ConvBlock)
    assert isinstance(block.depthwise, nn.Conv2d)
    assert isinstance(block.conv, nn.Conv2d)
    filters, mix = block.depthwise.weight, block.conv.weight
    assert count_parameters(block) == 6 * 9 + 6 * 4 + 2 * 4
    whole = mix * filters.transpose(0, 1)  # [4, 6, 1, 1] by [1, 6, 3, 3]
    x = torch.randn(2, 6, 7, 7)
    expected = F.relu(block.norms[0](F.conv2d(x, whole, padding=1)))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_depthwise_convolution_may_stand_alone() -> None:
    separable = {"channels": 6, "separable": True, "pointwise": False, "pool": "after_conv"}
    network = CompactCNN([{"channels": 6}, separable])
    block = network.blocks[1]
    assert isinstance(block, ConvBlock)
    assert isinstance(block.depthwise, nn.Conv2d)
    assert count_parameters(block) == 6 * 9 + 2 * 6
    x = torch.randn(2, 6, 8, 8)
    filtered = F.conv2d(x, block.depthwise.weight, padding=1, groups=6)
    expected = F.relu(block.norms[0](F.max_pool2d(filtered, 2)))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    one = CompactCNN([separable | {"channels": 1}])  # the fast operations take one channel
    assert one(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_a_norm_without_a_scale_saves_a_parameter_a_channel_and_learns_its_shift() -> None:
    with_scale, without = (
        CompactCNN(
            [
                {"channels": 4, "norm_scale": scale},
                {"channels": 4, "repeats": 2, "norm_scale": scale},
            ]
        )
        for scale in (True, False)
    )
    assert count_parameters(with_scale) - count_parameters(without) == 4 + 2 * 4
    optimizer = torch.optim.SGD(without.parameters(), lr=0.1)
    without(torch.randn(8, 1, 28, 28)).square().sum().backward()
    optimizer.step()
    for block in without.blocks:
        assert isinstance(block, ConvBlock)
        for norm in block.norms:
            assert isinstance(norm, nn.BatchNorm2d)
            assert (norm.weight == 1).all()
            assert (norm.bias != 0).all()


def test_a_scale_can_be_moved_into_the_next_layer() -> None:
    """A network needs no such scale: ReLU and max-pool keep a positive factor."""
    blocks = [
        {"channels": 5, "pool": "after_conv"},
        {"channels": 4, "separable": True, "pool": "after_activation"},
    ]
    network, moved = CompactCNN(blocks).eval(), CompactCNN(blocks).eval()
    first, second = (m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    for norm in (first, second):
        nn.init.uniform_(norm.weight, 0.3, 3)
        nn.init.normal_(norm.bias)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["blocks.1.depthwise.weight"] *= first.weight.view(-1, 1, 1, 1)
    state["linear.weight"] *= second.weight
    for at, norm in enumerate((first, second)):
        state[f"blocks.{at}.norms.0.bias"] /= norm.weight
        state[f"blocks.{at}.norms.0.weight"] = torch.ones_like(norm.weight)
    moved.load_state_dict(state)
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(moved(images), network(images))


@pytest.mark.parametrize("blocks", [SHARED, SEPARABLE])
def test_summary_counts_every_parameter_once(blocks: list[dict[str, Any]]) -> None:
    network = CompactCNN(blocks)
    rows = summary.layers(network)
    assert sum(row.parameters for row in rows) == count_parameters(network)


def test_a_network_of_another_class_is_summed_up_by_lightning() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 4)).train()
    lines = summary.table(network, "mine", 16, 2_000).splitlines()
    assert lines[0] == "mine"
    assert [line.split() for line in lines[1:-1]] == [
        ["layer", "output", "parameters", "multiply–adds", "sees"],
        ["Sequential", "4", "1,028", "1,024"],
        ["0", "Flatten", "256"],
        ["1", "Linear", "4", "1,028", "1,024"],
    ]
    assert lines[-1] == "1,028 of fewer than 2,000 parameters (51%), 4.1 kB as 32-bit floats"
    assert network.training


def test_the_layers_are_aligned_however_long_their_names() -> None:
    named = nn.Sequential(OrderedDict({"n" * 60: nn.Flatten(), "linear": nn.Linear(256, 4)}))
    deep = CompactCNN([{"channels": 90}, {"channels": 90, "separable": True, "repeats": 12}])
    for network, rows in ((named, 3), (deep, 9)):
        _, heads, *lines = summary.table(network, "mine", 16).splitlines()
        end = heads.index("output") + len("output")
        for line in lines[:rows]:
            assert line[end - 1] != " "
            assert line[end : end + 2] in ("", "  ")


def test_without_padding_the_map_shrinks_by_the_kernel() -> None:
    network = CompactCNN(UNPADDED).eval()
    counter = FlopCounterMode(display=False)
    x, shapes = torch.randn(1, 1, 28, 28), []
    with torch.no_grad(), counter:
        network(x)
        for block in network.blocks:
            x = block(x)
            shapes.append("×".join(map(str, x.shape[1:])))
    assert shapes == ["4×12×12", "6×10×10", "6×4×4", "5×2×2"]
    rows = summary.layers(network)
    ends = {f"{kind}{i}" for i, kind in ((1, "relu"), (2, "relu"), (3, "pool"), (4, "relu"))}
    assert [row.output for row in rows if row.name.split()[0] in ends] == shapes
    # The blocks are counted twice and the linear layer once; torch counts an addition as its own.
    counted = 2 * sum(row.multiply_adds for row in rows) - rows[-1].multiply_adds
    assert counter.get_total_flops() == 2 * counted


def test_a_kernel_as_large_as_the_map_weights_its_places() -> None:
    network = CompactCNN([{"channels": 3, "kernel": 27, "padding": False}]).eval()
    block = network.blocks[0]
    assert isinstance(block, ConvBlock)
    assert isinstance(block.conv, nn.Conv2d)
    image = torch.randn(1, 1, 28, 28)
    place = (image[0, 0, :27, :27] * block.conv.weight[1, 0]).sum()
    torch.testing.assert_close(
        block(image)[0, 1, 0, 0], F.relu(block.norms[0](place.expand(1, 3, 1, 1)))[0, 1, 0, 0]
    )


@pytest.mark.parametrize("blocks", [SHARED, SEPARABLE, UNPADDED])
def test_repeats_train_the_same_with_and_without_the_compiled_operations(
    blocks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, images = CompactCNN(blocks), torch.randn(8, 1, 28, 28)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        network.train()(images).square().sum().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    fast = gradients()
    monkeypatch.setattr(fused, "library", lambda _: None)
    for one, other in zip(fast, gradients(), strict=True):
        assert (one - other).norm() < 1e-3 * other.norm()


def test_description_rebuilds_the_network() -> None:
    network = CompactCNN(SHARED).eval()
    copy = CompactCNN(**network.description).eval()
    copy.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(network(images), copy(images))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "at least one block"),
        ([{"channels": 4, "pool": "after_conv"}] * 5, r"model.blocks\[4\].*1 pixel wide"),
        ([{"channels": 4, "repeats": 2}], r"model.blocks\[0\].repeats=2: .* its input, 1, not 4"),
        (
            [{"channels": 4}, {"channels": 4, "residual": True, "pool": "after_conv"}],
            r"model.blocks\[1\].residual=true: needs pool: none or after_activation",
        ),
        ([{"channels": 1, "repeats": 101}], "repeats=101: should be less than or equal to 100"),
        ([{"channels": 1}] * 101, "at most 100 items"),
        ([{"channels": 1000}] * 3, r"18,\d{3},\d{3} parameters; at most 10,000,000"),
        ([{"channels": 900}, {"channels": 900, "repeats": 99}], "multiply–adds an image; at most"),
        ([{"channels": 30_000}], "23,520,000 values per image; at most 16,777,216"),
        ([{"channels": 2**31}], r"model.blocks\[0\].channels=2147483648: should be less than"),
        ([{"channels": 4, "kernel": 2}], r"model.blocks\[0\].kernel=2: it should be odd"),
        (
            [{"channels": 4}, {"channels": 4, "residual": True, "padding": False}],
            r"model.blocks\[1\].residual=true: needs padding: true",
        ),
        (
            [
                *[{"channels": 4, "pool": "after_conv"}] * 3,
                {"channels": 4, "kernel": 5, "padding": False},
            ],
            r"model.blocks\[3\].kernel=5: without padding it must fit on the map, 3 pixels",
        ),
        ([{"channels": 4, "depth": 2}], r"model.blocks\[0\].depth: no such key; allowed"),
        ([{}], r"model.blocks\[0\].channels: a value is missing"),
        ([{"channels": 4, "separable": True, "pointwise": False}], "pointwise=false: .* input, 1$"),
        ([{"channels": 1, "pointwise": False}], "pointwise=false: needs separable: true"),
    ],
)
def test_impossible_blocks_are_refused(blocks: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompactCNN(blocks)


@pytest.mark.parametrize("name", ["final", "optimized", "nano"])
def test_the_bound_on_parameters_counts_as_torch_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = variant(name)
    alone = {"channels": 4, "separable": True, "pointwise": False}
    for blocks in (network.description["blocks"], SHARED, [*SEPARABLE, alone]):
        count = count_parameters(CompactCNN(blocks))
        monkeypatch.setattr("mnist_lit.network.blocks.MOST_PARAMETERS", count)
        CompactCNN(blocks)
        monkeypatch.setattr("mnist_lit.network.blocks.MOST_PARAMETERS", count - 1)
        with pytest.raises(ConfigError, match=f"{count:,} parameters"):
            CompactCNN(blocks)
        monkeypatch.undo()


def test_shapes_are_checked_at_run_time_here() -> None:
    with pytest.raises(TypeCheckError):
        variant("final")(torch.zeros(2, 28, 28))
