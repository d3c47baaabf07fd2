import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from signforge.classify.last_layer import (
    CosineLayer,
    freeze_all_but_last_layer,
    last_layer,
    make_last_layer_cosine,
)
from signforge.classify.model import build_classifier
from signforge.errors import SignforgeError


def build(name: str = "test_resnet", cosine_scale: float | None = None, seed: int = 0) -> nn.Module:
    return build_classifier(
        name,
        num_classes=5,
        resolution=32,
        pretrained=False,
        seed=seed,
        cosine_scale=cosine_scale,
    )


def test_cosines_do_not_depend_on_lengths() -> None:
    layer = CosineLayer(8, 5, scale=30.0)
    features = torch.randn(7, 8)
    logits = layer(features)
    expected = F.cosine_similarity(features[:, None], layer.weight[None], dim=2)
    torch.testing.assert_close(logits, 30 * expected)
    with torch.no_grad():
        layer.weight *= torch.rand(5, 1) + 0.5
    torch.testing.assert_close(layer(3 * features), logits)


def test_cosines_are_exact_under_autocast() -> None:
    layer, features = CosineLayer(64, 5, scale=30.0), torch.randn(7, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, layer(features))


def test_weights_begin_on_the_unit_sphere() -> None:
    lengths = CosineLayer(8, 5, scale=1.0).weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5))


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "test_vit"])
def test_a_model_with_cosines_is_the_same_but_for_its_last_layer(name: str) -> None:
    plain, cosine = build(name), build(name, cosine_scale=30.0)
    assert isinstance(last_layer(cosine), CosineLayer)
    head = {id(parameter) for parameter in last_layer(plain).parameters()}
    kept = {key: value for key, value in plain.named_parameters() if id(value) not in head}
    theirs = dict(cosine.named_parameters())
    assert all(torch.equal(value, theirs[key]) for key, value in kept.items())
    with torch.no_grad():
        logits = cosine.eval()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 5)
    assert 0 < float(logits.abs().max()) <= 30


def test_the_seed_decides_the_cosine_weights() -> None:
    first, again, other = (build(cosine_scale=1.0, seed=seed) for seed in (0, 0, 1))
    weights = [last_layer(model).weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_only_the_last_layer_is_left_to_train() -> None:
    model = build()
    fixed = next(model.parameters()).requires_grad_(False)
    frozen = freeze_all_but_last_layer(model)
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]
    assert not model.training
    # What was frozen before is none of its business.
    assert len(frozen) == sum(1 for _ in model.parameters()) - 3
    assert all(parameter is not fixed for parameter in frozen)


def test_models_without_one_linear_last_layer_are_refused() -> None:
    with pytest.raises(SignforgeError, match="Sequential has no single last layer"):
        last_layer(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(SignforgeError, match="no single last layer"):
        last_layer(timm.create_model("test_resnet", num_classes=0))
    model = build()
    model.fc = nn.Conv2d(4, 5, 1)
    with pytest.raises(SignforgeError, match=r"last layer of test_resnet is a Conv2d.*ldam_drw"):
        make_last_layer_cosine(model, "test_resnet", 30.0)
