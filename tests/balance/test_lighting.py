import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.balance import lighting
from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.lighting import STRONGEST, WEAKEST, BorrowedLight, relit
from signforge.errors import SignforgeError


def noise(count, low, high, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 3, 8, 8), generator=rng).to(torch.uint8)


def luminance(images):
    return images.double().mean(1).flatten(1)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 10**6),
    st.floats(90, 160),
    st.floats(7, 20),  # below, the contrast of some noise would fall under WEAKEST
)
def test_an_image_takes_the_mean_and_spread_that_it_is_given(seed, mean, std):
    images = noise(4, 60, 200, seed)
    changed = relit(images, torch.full((4,), mean), torch.full((4,), std))
    assert changed.dtype == torch.uint8
    np.testing.assert_allclose(luminance(changed).mean(1), mean, atol=0.5)
    np.testing.assert_allclose(luminance(changed).std(1, correction=0), std, atol=0.6)


def test_the_formula_of_reinhard_for_every_channel():
    images = noise(2, 80, 170)
    values = images.double()
    means, stds = luminance(images).mean(1), luminance(images).std(1, correction=0)
    expected = [
        (values[i] - means[i]) * (stds[i] * 1.1 / stds[i]) + means[i] + 10 for i in range(2)
    ]
    changed = relit(images, (means + 10).float(), (stds * 1.1).float())
    assert (changed.double() - torch.stack(expected)).abs().max() <= 0.5 + 1e-3


def test_an_image_keeps_its_own_light():
    images = noise(5, 0, 256)
    means, stds = luminance(images).mean(1).float(), luminance(images).std(1, correction=0).float()
    assert torch.equal(relit(images, means, stds), images)


def test_a_flat_image_stays_flat_and_noise_is_not_blown_up_without_limit():
    flat = torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)
    assert torch.equal(
        relit(flat, torch.tensor([100.0]), torch.tensor([50.0])),
        torch.full((1, 3, 8, 8), 100, dtype=torch.uint8),
    )
    dim = noise(1, 10, 13)
    changed = relit(dim, torch.tensor([128.0]), torch.tensor([120.0]))
    spread = (dim.double() - luminance(dim).mean()).abs().max()
    assert (changed.double() - 128).abs().max() <= STRONGEST * spread + 0.5


def test_a_flat_lender_does_not_make_an_image_flat():
    images = noise(4, 60, 200)
    changed = relit(images, torch.full((4,), 128.0), torch.zeros(4))
    spread = luminance(images).std(1, correction=0)
    np.testing.assert_allclose(luminance(changed).std(1, correction=0), WEAKEST * spread, rtol=0.05)


def test_every_class_lends_as_often_whatever_its_size():
    dark, bright = noise(99, 10, 30), noise(1, 200, 240)
    labels = torch.tensor([0] * 99 + [2])  # class 1 has no image, and lends nothing
    light = BorrowedLight.of(torch.cat([dark, bright]), labels)
    changed = light(noise(400, 90, 130), seed=3)
    lent_bright = (luminance(changed).mean(1) > 110).double().mean()
    assert 0.42 < lent_bright < 0.58


def test_the_same_seed_lends_the_same_light():
    light = BorrowedLight.of(noise(20, 0, 256), torch.arange(20) % 4)
    images = noise(9, 50, 200, seed=1)
    before = images.clone()
    state = torch.random.get_rng_state()
    assert torch.equal(light(images, 5), light(images, 5))
    assert not torch.equal(light(images, 5), light(images, 6))
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_image_lends_no_light():
    with pytest.raises(SignforgeError, match="no real image whose light"):
        BorrowedLight.of(noise(0, 0, 2), torch.zeros(0, dtype=torch.int64))


def test_a_data_set_lights_what_the_gate_let_through_and_nothing_else(make_real, make_sampler):
    real = make_real()
    seen = []

    def gate(images, labels):
        seen.append(images.clone())
        return torch.ones(len(labels), dtype=torch.bool)

    def night(images, seed):
        del seed
        return images // 4

    plain = SyntheticBalancedDataset(real, make_sampler(), gate=gate, min_acceptance=0)
    at_night = SyntheticBalancedDataset(
        real, make_sampler(), gate=gate, min_acceptance=0, relight=night
    )
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    for index in range(len(plain)):
        image, label = plain[index]
        other, same_label = at_night[index]
        assert label == same_label
        assert torch.equal(other, image if index < len(real) else image // 4)


def test_lighting_depends_on_seed_epoch_and_item_alone(make_real, make_sampler):
    real = make_real()
    light = BorrowedLight.of(real.images, real.labels)

    def pictures(epochs, seed):
        data = SyntheticBalancedDataset(real, make_sampler(), relight=light, refresh=0.5, seed=seed)
        for epoch in epochs:
            data.set_epoch(epoch)
        return data.pool_images.clone()

    assert torch.equal(pictures([1, 2, 3], seed=4), pictures([3], seed=4))
    assert not torch.equal(pictures([3], seed=4), pictures([3], seed=5))


@pytest.mark.parametrize("wrong", [None, torch.zeros(1), "half"])
def test_what_lights_must_return_images(make_real, make_sampler, wrong):
    def broken(images, seed):
        del seed
        return images[: len(images) // 2] if wrong == "half" else wrong

    with pytest.raises(SignforgeError, match="relight must return uint8 images of shape"):
        SyntheticBalancedDataset(make_real(), make_sampler(), relight=broken)


def test_many_images_are_lit_as_each_alone_would_be(monkeypatch):
    images = noise(10, 0, 256)
    means, stds = torch.linspace(50, 200, 10), torch.linspace(5, 60, 10)
    whole, light = relit(images, means, stds), BorrowedLight.of(images, torch.arange(10) % 2)
    monkeypatch.setattr(lighting, "CHUNK", 3)
    assert torch.equal(relit(images, means, stds), whole)
    again = BorrowedLight.of(images, torch.arange(10) % 2)
    assert torch.equal(again.means, light.means)
    assert torch.equal(again.stds, light.stds)
