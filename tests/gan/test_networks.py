import pytest
import torch

from signforge.errors import SignforgeError
from signforge.gan.networks import (
    UNKNOWN_CLASS,
    ConditionalBatchNorm2d,
    ConditionalGenerator,
    ProjectionDiscriminator,
    append_group_stddev,
    channels_by_resolution,
)


@pytest.fixture(autouse=True)
def own_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def generator(
    resolution: int = 8, num_classes: int = 5, upsample: str = "transposed"
) -> ConditionalGenerator:
    return ConditionalGenerator(
        num_classes=num_classes,
        resolution=resolution,
        z_dim=6,
        base_channels=4,
        embedding_dim=3,
        upsample=upsample,
    )


def discriminator(
    resolution: int = 8, num_classes: int = 5, stddev_group: int = 1
) -> ProjectionDiscriminator:
    return ProjectionDiscriminator(
        num_classes=num_classes,
        resolution=resolution,
        base_channels=4,
        stddev_group=stddev_group,
    )


def test_channels_double_with_every_halving_up_to_eight_times():
    assert channels_by_resolution(8, 4) == {4: 4}
    assert channels_by_resolution(32, 64) == {4: 256, 8: 128, 16: 64}
    assert channels_by_resolution(128, 64) == {4: 512, 8: 512, 16: 256, 32: 128, 64: 64}
    assert list(channels_by_resolution(64, 8)) == [4, 8, 16, 32]


@pytest.mark.parametrize("resolution", [-8, 0, 1, 4, 7, 12, 24, 33, 48])
def test_other_resolutions_are_one_sentence(resolution):
    with pytest.raises(SignforgeError, match=f"power of two of at least 8, not {resolution};"):
        channels_by_resolution(resolution, 64)


@pytest.mark.parametrize("upsample", ["transposed", "resize"])
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_generator_draws_images_of_its_size_between_minus_one_and_one(resolution, upsample):
    model = generator(resolution, upsample=upsample)
    for mode in (model.train(), model.eval()):
        images = mode(10 * torch.randn(7, 6), torch.arange(7) % 5)
        assert images.shape == (7, 3, resolution, resolution)
        assert images.dtype == torch.float32
        assert images.abs().max() <= 1
        assert images.std() > 0.01


@pytest.mark.parametrize("lowest_with_class", [4, 8, 16])
def test_layers_below_class_from_resolution_do_not_see_the_class(lowest_with_class):
    model = ConditionalGenerator(
        num_classes=5,
        resolution=32,
        z_dim=6,
        base_channels=4,
        embedding_dim=3,
        class_from_resolution=lowest_with_class,
    ).eval()
    maps: dict[int, torch.Tensor] = {}
    for norm in model.norms:
        norm.register_forward_hook(lambda _m, _i, out: maps.update({out.shape[-1]: out}))
    images = model(torch.randn(1, 6).expand(5, 6), torch.arange(5))
    assert set(maps) == {4, 8, 16}
    for side, features in maps.items():
        differ = float((features - features[:1]).detach().abs().max()) > 1e-4
        assert differ == (side >= lowest_with_class)
    assert torch.pdist(images.flatten(1)).min() > 0.01


def test_a_resolution_without_a_layer_is_one_sentence():
    with pytest.raises(SignforgeError, match=r"class_from_resolution is 32; .* layers at 4, 8, 16"):
        ConditionalGenerator(
            num_classes=2,
            resolution=32,
            z_dim=6,
            base_channels=4,
            embedding_dim=3,
            class_from_resolution=32,
        )


def test_without_class_strength_neither_network_knows_the_class():
    drawing, judging = generator().eval(), discriminator().eval()
    drawing.class_strength.fill_(0)
    judging.class_strength.fill_(0)
    images = drawing(torch.randn(1, 6).expand(5, 6), torch.arange(5))
    torch.testing.assert_close(images, images[:1].expand_as(images))
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    one, other = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    assert torch.equal(judging(images, one), judging(images, other))
    judging.class_strength.fill_(1)
    assert not torch.equal(judging(images, one), judging(images, other))
    assert "class_strength" not in {**drawing.state_dict(), **judging.state_dict()}


def test_an_image_of_unknown_class_is_judged_without_the_projection():
    judging = discriminator().eval()
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    labels = torch.tensor([2, UNKNOWN_CLASS, 0, UNKNOWN_CLASS])
    logits = judging(images, labels)
    told = judging(images, torch.tensor([2, 1, 0, 1]))
    assert torch.equal(logits[::2], told[::2])
    judging.class_strength.fill_(0)
    assert torch.equal(logits[1::2], judging(images, labels)[1::2])
    assert (logits - told)[1::2].abs().min() > 1e-3


def test_class_and_latent_both_change_the_image():
    model = generator().eval()
    z = torch.randn(1, 6).expand(5, 6)
    images = model(z, torch.arange(5))
    distances = torch.pdist(images.flatten(1))
    assert distances.min() > 0.1
    images = model(torch.randn(5, 6), torch.zeros(5, dtype=torch.int64))
    assert torch.pdist(images.flatten(1)).min() > 0.1


def test_images_of_a_batch_do_not_see_each_other_in_eval_mode():
    model = generator().eval()
    z, labels = torch.randn(4, 6), torch.tensor([0, 3, 1, 4])
    alone = torch.cat([model(z[i : i + 1], labels[i : i + 1]) for i in range(4)])
    assert torch.allclose(model(z, labels), alone, atol=1e-5)


def test_conditional_batch_norm_is_an_affine_of_batch_norm():
    layer = ConditionalBatchNorm2d(4, 3)
    x, condition = torch.randn(6, 4, 5, 5) * 3 + 2, torch.randn(6, 3)
    mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    normal = (x - mean[:, None, None]) / (variance[:, None, None] + layer.norm.eps).sqrt()
    gain = 1 + condition @ layer.gain.weight.T + layer.gain.bias
    bias = condition @ layer.bias.weight.T + layer.bias.bias
    expected = gain[:, :, None, None] * normal + bias[:, :, None, None]
    assert torch.allclose(layer(x, condition), expected, atol=1e-4)


def test_class_norm_parameters_are_what_the_class_adds_to_every_norm():
    model = generator(16)
    parameters = model.class_norm_parameters()
    assert [tuple(p.shape) for p in parameters] == [(5, 8), (5, 8), (5, 4), (5, 4)]
    embedded = torch.nn.functional.normalize(model.embedding.weight, dim=1) * 3**0.5
    zeros = torch.zeros(5, 6)
    gain = model.norms[0].gain(torch.cat([zeros, embedded], dim=1))
    assert torch.allclose(parameters[0] + model.norms[0].gain.bias, gain, atol=1e-6)
    sum(p.square().sum() for p in parameters).backward()
    assert model.embedding.weight.grad is not None
    assert model.norms[0].gain.weight.grad[:, :6].abs().sum() == 0


def test_group_stddev_is_numpys_mean_over_runs_of_images():
    x = torch.randn(6, 2, 3, 3)
    out = append_group_stddev(x, 3)
    assert out.shape == (6, 3, 3, 3)
    assert torch.equal(out[:, :2], x)
    for start in (0, 3):
        expected = x[start : start + 3].numpy().std(axis=0).mean()
        assert torch.allclose(out[start : start + 3, 2], torch.tensor(expected), atol=1e-5)


def test_equal_fakes_are_told_by_their_group_stddev():
    same = torch.randn(1, 2, 3, 3).expand(4, 2, 3, 3)
    assert append_group_stddev(same, 4)[:, 2].max() < 1e-3
    assert append_group_stddev(torch.randn(4, 2, 3, 3), 4)[:, 2].min() > 0.1


def test_channel_factors_scale_the_last_map():
    model, images, labels = discriminator(), torch.randn(5, 3, 8, 8), torch.arange(5)
    ones = torch.ones(5, model.top_channels, 1, 1)
    assert torch.equal(model(images, labels, ones), model(images, labels))
    # Without the map, nothing of the image is left.
    nothing = model(images, labels, 0 * ones)
    assert torch.equal(nothing, model(torch.zeros_like(images), labels, 0 * ones))
    some = ones.clone()
    some[0, 0] = 0
    changed = model(images, labels, some) != model(images, labels)
    assert changed.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_discriminator_gives_one_logit_an_image(resolution):
    logits = discriminator(resolution)(
        torch.randn(7, 3, resolution, resolution), torch.arange(7) % 5
    )
    assert logits.shape == (7,)
    assert logits.dtype == torch.float32


def test_the_logit_is_linear_in_the_class_embedding():
    model = discriminator()
    images = torch.randn(1, 3, 8, 8).expand(5, 3, 8, 8)
    before = model(images, torch.arange(5))
    assert torch.pdist(before[:, None]).min() > 0
    with torch.no_grad():
        model.embedding.weight[2] = 0
        without = model(images, torch.arange(5))
        model.embedding.weight.zero_()
        unconditional = model(images, torch.arange(5))
    kept = torch.tensor([0, 1, 3, 4])
    assert torch.equal(without[kept], before[kept])
    assert torch.allclose(without[2], unconditional[2])
    assert torch.allclose(unconditional, unconditional[:1].expand(5))


def test_every_weight_of_both_networks_gets_a_gradient():
    labels = torch.arange(5)
    players = generator(16), discriminator(16)
    players[1](players[0](torch.randn(5, 6), labels), labels).sum().backward()
    for player in players:
        for name, weights in player.named_parameters():
            assert weights.grad is not None, name
            assert weights.grad.isfinite().all(), name
            # Batch norm takes out what a bias before it adds; no such bias is here.
            assert weights.grad.abs().sum() > 0, name
