"""Speed script: operation counts against closed forms, ratio mathematics, one tiny run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gan_speed
import pytest
import torch
from baselines.plain_loop import PlainLoop
from PIL import Image
from records import markdown_table, run_script
from step_cost import (
    OurLoop,
    Product,
    ProductTimer,
    convolution_products,
    count_flops,
    flops_per_image,
    profile_steps,
    square_product,
)
from timing import Spread, ratio_spread, rotated, spread
from torch import nn

from signforge.config import GanConfig
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError

CPU = torch.device("cpu")
CONFIG = GanConfig(
    base_channels=4, z_dim=5, embedding_dim=6, batch_size=4, r1_every_steps=2, device="cpu"
)


@pytest.fixture(scope="module")
def train() -> LabeledImages:
    rng = torch.Generator().manual_seed(0)
    return LabeledImages(
        images=torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=rng),
        labels=torch.arange(24) % 3,
        groups=torch.full((24,), UNKNOWN_GROUP),
        class_names=("a", "b", "c"),
        names=("",) * 24,
        source="noise",
    )


def test_a_convolution_costs_what_its_formula_says() -> None:
    n, c_in, c_out, k, out = 5, 3, 7, 4, 8
    conv = nn.Conv2d(c_in, c_out, k, stride=2, padding=1)
    images = torch.zeros((n, c_in, 2 * out, 2 * out))
    product = 2 * n * out * out * c_in * c_out * k * k
    assert count_flops(lambda: conv(images)) == product
    # Backward: the gradient of the weights, and that of the images only where it is asked for.
    assert count_flops(lambda: conv(images).sum().backward()) == 2 * product
    images.requires_grad_(True)
    assert count_flops(lambda: conv(images).sum().backward()) == 3 * product


def test_operations_behind_autograd_grad_and_the_double_backward_are_counted() -> None:
    n, c_in, c_out = 2, 3, 4
    layer = nn.Linear(c_in, c_out, bias=False)
    x = torch.randn((n, c_in), requires_grad=True)
    product = 2 * n * c_in * c_out

    def penalty() -> None:
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    # Forward, gradient of x; from it back to the weights twice, to the output, then to x.
    assert count_flops(penalty) == 6 * product


def test_the_penalty_counts_as_often_as_it_comes() -> None:
    a = torch.zeros((2, 3))
    costs = {0: 5, 1: 1}

    def step(index: int) -> int:
        for _ in range(costs[index]):
            a @ a.T
        return 10

    product = 2 * 2 * 3 * 2
    assert flops_per_image(step, 4) == pytest.approx((5 + 3 * 1) / 4 * product / 10)


def test_convolutions_become_products_of_the_same_cost() -> None:
    up, down = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1), nn.Conv2d(3, 5, 3, padding=1)

    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = up

        def forward(self, z: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
            return self.up(z[:, :, None, None].expand(-1, -1, 8, 8))

    class Down(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = down, nn.Conv2d(5, 5, 3, padding=1)

        def forward(self, images: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(images)) + self.second(self.first(images))

    state = SimpleNamespace(generator=Up(), discriminator=Down())
    loop = SimpleNamespace(state=state, config=SimpleNamespace(batch_size=6, z_dim=4), device=CPU)
    products = convolution_products(loop)
    z, labels = torch.zeros((6, 4)), torch.zeros(6, dtype=torch.int64)
    counted = count_flops(lambda: state.discriminator(state.generator(z, labels), labels))
    assert sum(p.flops * p.times for p in products) == counted
    assert {p.times for p in products} == {1, 2}


@pytest.mark.parametrize("flops", [1e8, 3e9, 5e10])
def test_the_square_product_has_about_the_operations_asked_for(flops: float) -> None:
    product = square_product(flops)
    assert product.m == product.k == product.n
    assert product.m % 64 == 0
    assert product.flops == pytest.approx(flops, rel=0.3)


def test_a_product_is_timed_by_its_operations() -> None:
    timer = ProductTimer([Product(64, 64, 64, times=3)], CPU, "fp32")
    assert timer.flops_per_second(0.0) > 0
    assert timer._pass() == 3 * 2 * 64**3


def test_ratios_are_taken_round_by_round() -> None:
    # A machine that is three times slower in the second round changes no ratio.
    assert ratio_spread([9.0, 3.0, 9.0], [3.0, 1.0, 4.5]) == Spread(3.0, 2.0, 3.0)
    assert spread([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)
    assert f"{Spread(1.25, 1.0, 2.0):.1f}" == "1.2 (1.0 to 2.0)"
    with pytest.raises(ValueError, match="shorter"):
        ratio_spread([1.0, 2.0], [1.0])


def test_everyone_runs_first_once() -> None:
    assert [rotated("abc", number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotated("abc", 2)) == ["a", "b", "c"]


def test_a_table_is_markdown() -> None:
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |\n"


def test_what_the_user_can_mend_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_argv: object) -> None:
        raise SignforgeError("Mend this.")

    monkeypatch.setattr("sys.argv", ["script"])
    assert run_script(broken) == 2
    assert capsys.readouterr().err == "Mend this.\n"


@pytest.mark.parametrize(
    "changes",
    [{}, {"fresh_fakes": True}, {"loss": "hinge", "spectral_norm": True, "r1_gamma": 0.0}],
    ids=str,
)
def test_the_plain_loop_is_plain(train: LabeledImages, changes: dict[str, Any]) -> None:
    loop = PlainLoop(CONFIG.model_copy(update=changes), train, CPU, num_workers=0)
    layouts: list[bool] = []
    types: set[torch.dtype] = set()

    def look(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        layouts.append(output.is_contiguous())
        types.add(output.dtype)

    convolutions = [
        module
        for network in (loop.generator, loop.discriminator)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    for module in convolutions:
        assert module.weight.is_contiguous()
        module.register_forward_hook(look)
    before = [weights.clone() for weights in loop.discriminator.parameters()]
    assert loop.step(0) == CONFIG.batch_size
    assert layouts
    assert all(layouts)
    assert types == {torch.float32}
    assert not all(map(torch.equal, before, loop.discriminator.parameters()))
    # Weight gradients of the discriminator's own update and of the generator's both lie there.
    assert all(weights.grad is not None for weights in loop.discriminator.parameters())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lecam_weight", 0.1),
        ("gsr_weight", 0.5),
        ("discriminator_dropout", 0.4),
        ("projection_share", 0.5),
    ],
)
def test_the_plain_loop_refuses_what_it_would_leave_out(
    train: LabeledImages, key: str, value: float
) -> None:
    config = CONFIG.model_copy(update={key: value})
    with pytest.raises(SignforgeError, match=f"knows no gan.{key} of {value}: set it to"):
        PlainLoop(config, train, CPU, num_workers=0)


def test_the_profile_names_every_part_of_the_step(train: LabeledImages) -> None:
    loop = OurLoop(CONFIG, train, CPU)
    table, phases = profile_steps(loop, 2, rows=5)
    assert {
        "data: real batch",
        "augmentation",
        "G forward",
        "D forward",
        "guide forward",
        "D backward",
        "R1: gradient of the input",
        "R1: second backward",
        "G backward, through D",
        "D optimizer",
        "G optimizer",
        "EMA",
        "other",
    } == set(phases)
    assert all(seconds > 0 for seconds in phases.values())
    assert "aten::" in table
    # What was wrapped for the profile is itself again.
    assert "forward" not in vars(loop.state.generator)
    assert torch.Tensor.backward.__module__ == "torch._tensor"


def test_one_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["gan.base_channels=4", "gan.batch_size=4", "gan.r1_every_steps=2", "gan.device=cpu"]
    tiny += ["data.demo_scale=0.02", "data.resolution=8"]
    argv = ["--config", "demo", "--rounds", "2", "--steps", "1", "--product-seconds", "0.001"]
    argv += ["--arms", "ours", "plain", "--threads", "1", "--out", str(tmp_path)]
    gan_speed.main([*argv, *(part for text in tiny for part in ("--set", text))])
    text = capsys.readouterr().out
    assert (tmp_path / "speed.md").read_text() == text.removesuffix("\n")
    with Image.open(tmp_path / "speed.png") as image:
        assert image.height > 100
    (result,) = json.loads((tmp_path / "speed.json").read_text())["results"]
    ours, plain = result["rounds"]
    assert (ours["contender"], plain["contender"]) == ("ours", "plain")
    assert len(ours["images_per_second"]) == len(plain["images_per_second"]) == 2
    assert ours["steps_per_round"] == 2  # rounded up to a whole round of the penalty
    assert plain["flops_per_image"] > ours["flops_per_image"]  # frozen weights cost nothing
    assert text.count("| plain |") == 1
    assert "2048 x 2048 x 2048" in text


def test_no_rounds_are_refused() -> None:
    with pytest.raises(SignforgeError, match="at least 1"):
        gan_speed.main(["--rounds", "0"])
