import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from signforge.classify import randaugment
from signforge.classify.augment import augment_batch, normalise
from signforge.classify.randaugment import OPERATIONS, rand_augment


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 8, size: int = 32) -> Tensor:
    """Smooth enough for two ways of rounding to agree."""
    coarse = torch.rand(n, 3, 4, 4, generator=rng(9)) * 255
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return smooth.clamp(0, 255).to(torch.uint8)


def operation(name: str, sign: int = 1) -> Tensor:
    return OPERATIONS[name](images(), sign)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "identifier", "strength"),
    [
        ("identity", "Identity", 0.0),
        ("brightness", "Brightness", 0.27),
        ("saturation", "Color", 0.27),
        ("contrast", "Contrast", 0.27),
        ("sharpness", "Sharpness", 0.27),
        ("posterize", "Posterize", None),
        ("solarize", "Solarize", None),
        ("autocontrast", "AutoContrast", 0.0),
        ("equalize", "Equalize", 0.0),
    ],
)
def test_light_is_torchvisions_at_its_defaults(
    name: str, identifier: str, strength: float | None, sign: int
) -> None:
    theirs = v2.RandAugment()
    if strength is None:
        magnitudes, _ = theirs._AUGMENTATION_SPACE[identifier]
        magnitude = float(magnitudes(theirs.num_magnitude_bins, 32, 32)[theirs.magnitude])
    else:
        magnitude = sign * strength
    expected = theirs._apply_image_or_video_transform(
        images(), identifier, magnitude, interpolation=InterpolationMode.NEAREST, fill={}
    )
    assert torch.equal(operation(name, sign), expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "affine"),
    [
        ("shear_x", {"shear": [5.1428, 0.0]}),  # arctan(0.09) in degrees
        ("shear_y", {"shear": [0.0, 5.1428]}),
        ("rotate", {"angle": 9.0}),
    ],
)
def test_poses_are_torchvisions_inside_the_image(
    name: str, affine: dict[str, float | list[float]], sign: int
) -> None:
    def moved(direction: int) -> Tensor:
        whole = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        for key, value in affine.items():
            turned = (
                [direction * v for v in value] if isinstance(value, list) else direction * value
            )
            whole[key] = turned
        return tv.affine(images(), interpolation=InterpolationMode.BILINEAR, **whole)

    def inner(some: Tensor) -> Tensor:
        return some[:, :, 8:24, 8:24].int()

    ours = operation(name, sign)
    # Which way is positive is a matter of taste: both are drawn equally often.
    gaps = [float((inner(ours) - inner(moved(d))).abs().max()) for d in (1, -1)]
    assert min(gaps) <= 1 < max(gaps)


@pytest.mark.parametrize(("name", "dim"), [("shift_x", -1), ("shift_y", -2)])
def test_shifts_are_a_seventh_of_the_side(name: str, dim: int) -> None:
    ramp = torch.linspace(0, 217, 32).round().to(torch.uint8).expand(1, 3, 32, 32)
    given = ramp if dim == -1 else ramp.mT
    moved = OPERATIONS[name](given, 1).int()
    # 7 grey levels a pixel, and the middle of the image has no edge to repeat.
    middle = (moved - given.int()).select(dim, 16)
    assert middle.float().mean() == pytest.approx(7 * 32 * 150 / 331 * 0.3, abs=1)


def test_images_of_a_batch_get_different_operations_and_the_same_ones_again() -> None:
    same = images(1).expand(200, 3, 32, 32)
    first, again = rand_augment(same, rng()), rand_augment(same, rng())
    other = rand_augment(same, rng(1))
    assert first.dtype == torch.uint8
    assert first.shape == same.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # 14 operations, 8 of them in two directions: most pairs look different.
    assert len({image.numpy().tobytes() for image in first}) > 80


def test_neither_the_input_nor_the_global_state_is_touched() -> None:
    given, before = images(), torch.get_rng_state()
    kept = given.clone()
    rand_augment(given, rng())
    assert torch.equal(given, kept)
    assert torch.equal(before, torch.get_rng_state())


def test_all_operations_take_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[int, set[int]] = {number: set() for number in range(len(OPERATIONS))}

    def noted(number: int) -> object:
        def run(some: Tensor, sign: int) -> Tensor:
            taken[number].add(sign)
            return some

        return run

    watched = {str(number): noted(number) for number in taken}
    monkeypatch.setattr(randaugment, "OPERATIONS", watched)
    rand_augment(images(1).expand(500, 3, 32, 32), rng())
    assert all(signs == {1, -1} for signs in taken.values())


@pytest.mark.parametrize("seed", range(3))
def test_never_flips(seed: int) -> None:
    """A patch in one corner of a grey image stays in its quarter in every image."""
    image = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    image[:, :, 2:10, 2:10] = 150
    moved = rand_augment(image.expand(300, 3, 32, 32), rng(seed)).float().mean(dim=1)
    difference = (moved - moved[:, -1:, -1:]).abs()
    quarters = [
        difference[:, y : y + 16, x : x + 16].sum(dim=(1, 2)) for y in (0, 16) for x in (0, 16)
    ]
    # Solarising what was stretched to full contrast makes patch and ground alike.
    assert int((quarters[0] > 0).sum()) > 250
    assert all(bool((quarters[0] >= other).all()) for other in quarters[1:])


def test_augment_batch_normalises_what_it_gives() -> None:
    batch = augment_batch(images(), "randaugment", rng(3))
    assert torch.equal(batch, normalise(rand_augment(images(), rng(3))))
