import pytest
import timm
import torch
from torch import nn

from signforge.classify.model import build_classifier
from signforge.errors import SignforgeError


def build(name: str, resolution: int = 32, seed: int = 0, pretrained: bool = False) -> nn.Module:
    return build_classifier(
        name, num_classes=5, resolution=resolution, pretrained=pretrained, seed=seed
    )


@pytest.mark.parametrize(
    ("name", "resolution"),
    [
        ("resnet18", 32),
        ("resnet18", 96),
        ("mobilenetv3_small_100", 32),
        ("vit_tiny_patch16_224", 32),
        ("vit_tiny_patch16_224", 48),
        ("test_resnet", 16),
    ],
)
def test_takes_images_of_its_resolution(name: str, resolution: int) -> None:
    model = build(name, resolution).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, resolution, resolution))
    assert logits.shape == (2, 5)
    assert model.resolution == resolution


def test_is_handed_over_in_training_mode() -> None:
    assert all(module.training for module in build("test_resnet").modules())


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_vit"])
def test_seed_decides_the_weights_and_nothing_else_does(name: str) -> None:
    first = build(name).state_dict()
    torch.rand(7)
    again, other = build(name).state_dict(), build(name, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    build("resnet18")
    assert torch.equal(before, torch.get_rng_state())


def test_small_images_get_a_small_resnet_stem() -> None:
    small, large = build("resnet18", 64), build("resnet18", 65)
    assert small.conv1.kernel_size == (3, 3)
    assert small.conv1.stride == (2, 2)
    assert large.conv1.kernel_size == (7, 7)
    with torch.no_grad():
        assert small.forward_features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (2, 2)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "efficientnet_b0"])
def test_small_images_keep_their_size_in_a_convolutional_stem(name: str) -> None:
    small, large = build(name, 64), build(name, 65)
    assert small.conv_stem.stride == (1, 1)
    assert large.conv_stem.stride == (2, 2)
    assert torch.equal(small.conv_stem.weight, large.conv_stem.weight)
    with torch.no_grad():
        assert small.forward_features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (2, 2)


def test_other_stems_stay_as_timm_made_them() -> None:
    ours, theirs = build("test_resnet"), timm.create_model("test_resnet", num_classes=5)
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [
        (n, p.shape) for n, p in theirs.named_parameters()
    ]


def test_pretrained_stem_keeps_the_centre_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = timm.create_model("resnet18", num_classes=5)
    kernels = trained.conv1.weight.detach().clone()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: trained)
    assert torch.equal(build("resnet18", pretrained=True).conv1.weight, kernels[:, :, 2:5, 2:5])


def test_failed_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **options: object) -> nn.Module:
        assert options["pretrained"] is True
        raise OSError("Name or service not known\nand a second line")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        SignforgeError, match=r"Pretrained weights of resnet18.*not known"
    ) as caught:
        build("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet81", "did you mean resnet1"), ("reznet18", "resnet18"), ("zzzz", "list_models")],
)
def test_unknown_name_names_the_closest(name: str, hint: str) -> None:
    with pytest.raises(SignforgeError, match=hint):
        build(name)


def test_foreign_hub_names_are_refused() -> None:
    with pytest.raises(SignforgeError, match="Unknown classifier"):
        build("hf-hub:someone/model")


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224"])
def test_resolution_that_a_model_cannot_take_is_an_error(name: str) -> None:
    with pytest.raises(SignforgeError, match=rf"{name} cannot .*8x8.*choose another"):
        build(name, 8)


@pytest.mark.parametrize(("name", "resolution"), [("test_resnet", 16), ("resnet18", 8)])
def test_strides_over_a_single_pixel_are_dropped_without_changing_the_model(
    name: str, resolution: int
) -> None:
    model = build(name, resolution).eval()
    images = torch.randn(2, 3, resolution, resolution)
    sizes: dict[str, torch.Size] = {}

    def see(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes[names[module]] = inputs[0].shape[-2:]

    names = {m: n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    hooks = [module.register_forward_pre_hook(see) for module in names]
    with torch.no_grad():
        ours = model(images)
        for hook in hooks:
            hook.remove()
        over_pixel = [m for m, n in names.items() if n and sizes[n] == (1, 1)]
        assert over_pixel
        assert all(m.stride == (1, 1) for m in over_pixel if m.kernel_size == (3, 3))
        for module in over_pixel:
            module.stride = (2, 2)
        torch.testing.assert_close(model(images), ours)
