"""Samplers that keep the contract pass, and for each rule a sampler that breaks it fails."""

import ast
import random
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import signforge.testing
from signforge.config import GanConfig
from signforge.gan.sampler import GanSampler, GeneratorCard, build_generator
from signforge.testing import ClassConditionalSamplerContract, check_sampler
from support.examples import load_example

NAMES = ("stop", "yield", "no entry")


class GoodSampler:
    """Noise on a colour of the class: the base that each broken sampler changes in one place."""

    class_names = NAMES
    num_classes = len(NAMES)
    resolution = 4
    fingerprint = "good-1"

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        if bool(((labels < 0) | (labels >= len(NAMES))).any()):
            raise IndexError("no such class")
        return self.draw(labels, torch.Generator().manual_seed(seed))

    def draw(self, labels: Tensor, rng: torch.Generator | None) -> Tensor:
        noise = torch.randint(0, 50, (len(labels), 3, 4, 4), generator=rng)
        return (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)


class NoClasses(GoodSampler):
    num_classes = 0


class FlagAsResolution(GoodSampler):
    resolution = True


class NamesInASet(GoodSampler):
    class_names = frozenset(NAMES)


class NumbersAsNames(GoodSampler):
    class_names = (0, 1, 2)


class OneNameTooFew(GoodSampler):
    class_names = NAMES[:2]


class EmptyFingerprint(GoodSampler):
    fingerprint = ""


class NumberAsFingerprint(GoodSampler):
    fingerprint = 7


class SampleIsNoMethod(GoodSampler):
    sample = None


class ReturnsNumpy(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels, seed).numpy()


class ReturnsFloats(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels, seed) / 255


class ReturnsChannelsLast(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels, seed).permute(0, 2, 3, 1)


class ReturnsOneForAll(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels, seed)[:1]


class ReturnsOtherMemory(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels, seed).to("meta")


class FailsWithoutLabels(GoodSampler):
    def sample(self, labels, seed):
        assert labels.max() < len(NAMES)
        return super().sample(labels, seed)


class FailsOnUnsortedLabels(GoodSampler):
    def sample(self, labels, seed):
        if (labels.diff() < 0).any():
            raise ValueError("sort the labels first")
        return super().sample(labels, seed)


class SortsLabels(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels.sort().values, seed)


class IgnoresLabels(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(torch.zeros_like(labels), seed)


class DrawsWithoutSeed(GoodSampler):
    def draw(self, labels, rng):
        del rng
        noise = np.random.default_rng().integers(0, 50, (len(labels), 3, 4, 4))
        return (torch.from_numpy(noise) + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)


class ReusesItsMemory(GoodSampler):
    @cached_property
    def memory(self):
        return torch.empty((99, 3, 4, 4), dtype=torch.uint8)

    def draw(self, labels, rng):
        return self.memory[: len(labels)].copy_(super().draw(labels, rng))


class DrawsOneImageForAll(GoodSampler):
    def draw(self, labels, rng):
        return super().draw(torch.zeros(1), rng) + (60 * labels).view(-1, 1, 1, 1).byte()


class IgnoresTheSeed(GoodSampler):
    def sample(self, labels, seed):
        del seed
        return super().sample(labels, 3)


class CannotTakeLargeSeeds(GoodSampler):
    def sample(self, labels, seed):
        np.random.RandomState(seed)
        return super().sample(labels, seed)


class CutsTheSeed(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels, seed % (2**63 - 1))


class SeedsTorch(GoodSampler):
    def draw(self, labels, rng):
        torch.manual_seed(rng.initial_seed())
        return super().draw(labels, None)


class SeedsNumpy(GoodSampler):
    def draw(self, labels, rng):
        np.random.seed(rng.initial_seed() % 2**32)  # noqa: NPY002
        return super().draw(labels, rng)


class SeedsPython(GoodSampler):
    def draw(self, labels, rng):
        random.seed(rng.initial_seed())
        return super().draw(labels, rng)


class WritesToLabels(GoodSampler):
    def sample(self, labels, seed):
        images = super().sample(labels, seed)
        labels.zero_()
        return images


class TakesTheLastClassForMinusOne(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels.where(labels != -1, 2), seed)


class TakesTooLargeLabels(GoodSampler):
    def sample(self, labels, seed):
        return super().sample(labels.clamp(max=2), seed)


class ChangingFingerprint(GoodSampler):
    calls = 0

    def sample(self, labels, seed):
        self.calls += 1
        return super().sample(labels, seed)

    @property
    def fingerprint(self):
        return f"broken-{self.calls}"


BROKEN = {
    NoClasses: "num_classes must be an int of at least 1, not 0",
    FlagAsResolution: "resolution must be an int of at least 1, not True",
    NamesInASet: "class_names must be a tuple of str, not frozenset",
    NumbersAsNames: "class_names must be a tuple of str",
    OneNameTooFew: "class_names holds 2 names, but num_classes is 3",
    EmptyFingerprint: "fingerprint must be a str that is not empty",
    NumberAsFingerprint: "fingerprint must be a str that is not empty, not 7",
    SampleIsNoMethod: "sample must be a method",
    ReturnsNumpy: r"sample\(\) must return a Tensor, not a ndarray",
    ReturnsFloats: r"sample\(\) must return uint8, not torch.float32",
    ReturnsChannelsLast: r"sample\(\) must return shape \(16, 3, 4, 4\)",
    ReturnsOneForAll: r"sample\(\) must return shape .* not \(1, 3, 4, 4\)",
    ReturnsOtherMemory: r"sample\(\) must return CPU memory, not meta",
    FailsWithoutLabels: r"sample\(\) fails on 0 labels",
    FailsOnUnsortedLabels: r"sample\(\) fails on 16 labels .*sort the labels first",
    SortsLabels: r"sample\(\) gives the same images for the same labels in reverse",
    IgnoresLabels: r"sample\(\) gives the same images for the same labels in reverse",
    DrawsWithoutSeed: r"sample\(\) gives other images for the same labels and seed",
    ReusesItsMemory: r"sample\(\) returns the same memory twice",
    DrawsOneImageForAll: r"sample\(\) draws one and the same image 16 times for class",
    IgnoresTheSeed: r"sample\(\) gives the same images for seeds 0 and 1;",
    CannotTakeLargeSeeds: r"sample\(\) fails on 16 labels of 0..2 and seed \d{10,}",
    CutsTheSeed: rf"sample\(\) gives the same images for seeds 0 and {2**63 - 1}",
    SeedsTorch: r"sample\(\) changes the global random state of torch;",
    SeedsNumpy: r"sample\(\) changes the global random state of numpy;",
    SeedsPython: r"sample\(\) changes the global random state of random;",
    WritesToLabels: r"sample\(\) modifies its argument labels",
    TakesTheLastClassForMinusOne: r"sample\(\) accepts label -1, which is no class of 0..2",
    TakesTooLargeLabels: r"sample\(\) accepts label 3, which is no class of 0..2",
    ChangingFingerprint: "fingerprint changes from one reading to the next",
}


@pytest.mark.parametrize("sampler_type", BROKEN, ids=lambda sampler_type: sampler_type.__name__)
def test_a_broken_sampler_is_named_at_fault(sampler_type):
    with pytest.raises(AssertionError, match="^" + BROKEN[sampler_type]):
        check_sampler(sampler_type())


@pytest.mark.parametrize(
    "member", ["num_classes", "resolution", "class_names", "fingerprint", "sample"]
)
def test_a_missing_member_is_named(member):
    class Incomplete(GoodSampler):
        def __getattribute__(self, name):
            if name == member:
                raise AttributeError(name)
            return super().__getattribute__(name)

    with pytest.raises(AssertionError, match=f"^{member} is missing: a Incomplete needs"):
        check_sampler(Incomplete())


@pytest.mark.parametrize("sampler_type", BROKEN, ids=lambda sampler_type: sampler_type.__name__)
def test_some_test_of_the_contract_fails_on_a_broken_sampler(sampler_type):
    failed = []
    for name in (name for name in dir(ClassConditionalSamplerContract) if name.startswith("test_")):
        try:
            getattr(ClassConditionalSamplerContract(), name)(sampler_type())
        except Exception as error:
            failed.append(str(error))
    with pytest.raises(AssertionError) as caught:
        check_sampler(sampler_type())
    assert str(caught.value) in failed


def test_names_may_be_left_out_and_a_single_class_is_enough():
    class Single(GoodSampler):
        class_names = ()
        num_classes = 1

        def sample(self, labels, seed):
            if labels.any():
                raise IndexError("no such class")
            return super().sample(labels, seed)

    check_sampler(Single())


def test_number_of_images():
    check_sampler(GoodSampler(), num_images=2)
    with pytest.raises(ValueError, match="num_images must be at least 2, got 1"):
        check_sampler(GoodSampler(), num_images=1)


class TestGoodSampler(ClassConditionalSamplerContract):
    num_images = 5

    @pytest.fixture
    def sampler(self):
        return GoodSampler()


class TestGanSampler(ClassConditionalSamplerContract):
    @pytest.fixture
    def sampler(self):
        config = GanConfig(z_dim=4, base_channels=4, embedding_dim=4)
        card = GeneratorCard(
            gan=config,
            resolution=16,
            class_names=NAMES,
            class_counts=(3, 2, 1),
            train_fingerprint="",
            seen_kimg=0.0,
            seconds=0.0,
            weights_sha256="0" * 64,
        )
        generator = build_generator(config, num_classes=len(NAMES), resolution=16)
        return GanSampler(generator, card, torch.device("cpu"))

    def test_check_sampler(self, sampler):
        check_sampler(sampler)


class TestTemplateRenderer(ClassConditionalSamplerContract):
    @pytest.fixture
    def sampler(self):
        rng = torch.Generator().manual_seed(0)
        templates = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=rng)
        return load_example("template_renderer").TemplateRenderer(templates, NAMES)

    def test_check_sampler(self, sampler):
        check_sampler(sampler)


def test_pytest_is_not_imported():
    files = sorted(Path(signforge.testing.__file__).parent.glob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imports = [ast.unparse(node) for node in nodes if "Import" in type(node).__name__]
    assert len(imports) > len(files)
    assert [line for line in imports if "pytest" in line] == []
