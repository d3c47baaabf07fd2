import pytest
import torch

from signforge.balance.real_sampler import RealImageSampler
from signforge.errors import SignforgeError
from signforge.testing import check_sampler


def test_it_keeps_the_contract_of_samplers(make_real):
    check_sampler(RealImageSampler(make_real()))


def test_it_draws_the_images_of_the_class_all_of_them(make_real):
    real = make_real(counts=(5, 3))
    drawn = RealImageSampler(real).sample(torch.tensor([1] * 100 + [0] * 100), seed=2)
    for label, images in ((1, drawn[:100]), (0, drawn[100:])):
        own = {tuple(image.flatten().tolist()) for image in real.images[real.labels == label]}
        assert {tuple(image.flatten().tolist()) for image in images} == own


def test_a_class_without_images_cannot_be_drawn(make_real):
    sampler = RealImageSampler(make_real(counts=(2, 0)))
    with pytest.raises(SignforgeError, match="Class 1 has no real image"):
        sampler.sample(torch.tensor([0, 1]), seed=0)
