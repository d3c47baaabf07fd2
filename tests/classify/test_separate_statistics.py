import copy

import pytest
import torch
from torch import nn

from signforge.classify.model import build_classifier
from signforge.classify.separate_statistics import forward_apart
from signforge.classify.training import fit_classifier
from signforge.config import ClassifierConfig

MARK = torch.tensor([True, False, False, True, False, False, True, False])


def model():
    return build_classifier("test_resnet", num_classes=4, resolution=16, pretrained=False, seed=0)


def images(count=8, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def statistics(net):
    return {key: value.clone() for key, value in net.state_dict().items() if "running" in key}


def test_each_kind_is_normalised_by_itself_alone():
    ours, real_only, synthetic_only = model(), model(), model()
    x = images()
    logits = forward_apart(ours, ours, x, MARK)
    assert torch.equal(logits[~MARK], real_only(x[~MARK]))
    assert torch.equal(logits[MARK], synthetic_only(x[MARK]))
    assert not torch.allclose(logits, model()(x), atol=1e-3)


def test_running_statistics_are_those_of_real_images():
    ours, real_only = model(), model()
    x = images()
    forward_apart(ours, ours, x, MARK)
    real_only(x[~MARK])
    for key, value in statistics(real_only).items():
        assert torch.equal(statistics(ours)[key], value), key
    tracked = [m.track_running_stats for m in ours.modules() if isinstance(m, nn.BatchNorm2d)]
    assert tracked
    assert all(tracked)
    ours.eval()
    real_only.eval()
    assert torch.equal(ours(x), real_only(x))


def test_gradients_are_those_of_both_parts():
    ours, apart = model(), model()
    x = images()
    weights = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    (forward_apart(ours, ours, x, MARK) * weights).sum().backward()
    (apart(x[~MARK]) * weights[~MARK]).sum().backward()
    (apart(x[MARK]) * weights[MARK]).sum().backward()
    for (name, mine), theirs in zip(ours.named_parameters(), apart.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5), name


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_too_few_of_a_kind_go_with_the_others(count):
    ours, plain = model(), model()
    x = images()
    logits = forward_apart(ours, ours, x, torch.arange(8) < count)
    assert torch.equal(logits, plain(x))
    assert all(
        torch.equal(a, b)
        for a, b in zip(statistics(ours).values(), statistics(plain).values(), strict=True)
    )


class Pairs:
    """Noise of two kinds: synthetic images are brighter by a constant."""

    def __init__(self, mark):
        self.mark = mark

    def __len__(self):
        return 64

    def __getitem__(self, index):
        rng = torch.Generator().manual_seed(index)
        synthetic = index % 2 == 0
        image = torch.randint(0, 100, (3, 16, 16), generator=rng) + 100 * synthetic
        item = (image.to(torch.uint8), index % 4)
        return (*item, synthetic) if self.mark else item


def test_a_training_follows_the_marks_of_its_data_set():
    config = ClassifierConfig(name="test_resnet", steps=4, batch_size=16, augment="none")
    start = model()
    fitted = {}
    for mark in (False, True):
        fitted[mark] = copy.deepcopy(start)
        result = fit_classifier(fitted[mark], Pairs(mark), config=config, seed=0)
        assert result.images == 64
    first = next(m for m in start.modules() if isinstance(m, nn.BatchNorm2d))
    name = next(n for n, m in start.named_modules() if m is first)
    means = {mark: net.get_submodule(name).running_mean for mark, net in fitted.items()}
    # The stem is linear: brighter images move its statistics, unless they are kept apart.
    assert (means[False] - means[True]).abs().max() > 0.05
