"""The rules of ClassConditionalSampler as checks: run them on a sampler of your own.

``check_sampler`` is one call; ``ClassConditionalSamplerContract`` gives pytest one test a rule.
"""

import torch
from torch import Tensor

from signforge.gan.sampler import ClassConditionalSampler
from signforge.seeds import derive_seed
from signforge.testing.rules import random_states, require

_NUM_IMAGES = 16
_LARGEST_SEED = 2**63 - 1


def check_sampler(sampler: ClassConditionalSampler, *, num_images: int = _NUM_IMAGES) -> None:
    """Whether ``sampler`` keeps every rule that the package relies on.

    num_images: how many images a draw of the checks asks for, at least 2; about ten draws.

    Raises AssertionError with one sentence that names the member at fault.
    """
    _check_num_images(num_images)
    _check_members(sampler)
    _check_images(sampler, num_images)
    _check_empty(sampler)
    _check_order(sampler, num_images)
    _check_repeats(sampler, num_images)
    _check_variety(sampler, num_images)
    _check_seeds(sampler, num_images)
    _check_random_state(sampler, num_images)
    _check_labels_untouched(sampler, num_images)
    _check_label_range(sampler)
    _check_fingerprint(sampler, num_images)


class ClassConditionalSamplerContract:
    """The same rules as pytest tests: subclass it and give a fixture called ``sampler``.

    ::

        class TestMySampler(ClassConditionalSamplerContract):
            @pytest.fixture
            def sampler(self):
                return MySampler()

    num_images: as in ``check_sampler``.
    """

    num_images = _NUM_IMAGES

    def test_members(self, sampler: ClassConditionalSampler) -> None:
        _check_members(sampler)

    def test_images_are_uint8_on_the_cpu(self, sampler: ClassConditionalSampler) -> None:
        _check_images(sampler, self.num_images)

    def test_no_labels_give_no_images(self, sampler: ClassConditionalSampler) -> None:
        _check_empty(sampler)

    def test_labels_may_come_in_any_order(self, sampler: ClassConditionalSampler) -> None:
        _check_order(sampler, self.num_images)

    def test_same_labels_and_seed_same_images(self, sampler: ClassConditionalSampler) -> None:
        _check_repeats(sampler, self.num_images)

    def test_images_of_a_class_differ(self, sampler: ClassConditionalSampler) -> None:
        _check_variety(sampler, self.num_images)

    def test_seeds_give_different_images(self, sampler: ClassConditionalSampler) -> None:
        _check_seeds(sampler, self.num_images)

    def test_global_random_state_is_left_alone(self, sampler: ClassConditionalSampler) -> None:
        _check_random_state(sampler, self.num_images)

    def test_labels_are_not_modified(self, sampler: ClassConditionalSampler) -> None:
        _check_labels_untouched(sampler, self.num_images)

    def test_labels_out_of_range_raise(self, sampler: ClassConditionalSampler) -> None:
        _check_label_range(sampler)

    def test_fingerprint_is_stable(self, sampler: ClassConditionalSampler) -> None:
        _check_fingerprint(sampler, self.num_images)


def _check_num_images(num_images: int) -> None:
    if num_images < 2:
        raise ValueError(f"num_images must be at least 2, got {num_images}.")


def _check_members(sampler: ClassConditionalSampler) -> None:
    for name in ("num_classes", "resolution", "class_names", "fingerprint", "sample"):
        require(
            hasattr(sampler, name),
            f"{name} is missing: a {type(sampler).__name__} needs num_classes, resolution, "
            "class_names, fingerprint and sample(labels, seed).",
        )
    for name in ("num_classes", "resolution"):
        value: object = getattr(sampler, name)
        require(
            isinstance(value, int) and not isinstance(value, bool) and value >= 1,
            f"{name} must be an int of at least 1, not {value!r}.",
        )
    names: object = sampler.class_names
    require(
        isinstance(names, tuple) and all(isinstance(name, str) for name in names),
        f"class_names must be a tuple of str, not {names!r}.",
    )
    require(
        len(sampler.class_names) in (0, sampler.num_classes),
        f"class_names holds {len(sampler.class_names)} names, but num_classes is "
        f"{sampler.num_classes}; give one name a class, or none at all.",
    )
    fingerprint: object = sampler.fingerprint
    require(
        isinstance(fingerprint, str) and fingerprint != "",
        f"fingerprint must be a str that is not empty, not {fingerprint!r}.",
    )
    require(callable(sampler.sample), "sample must be a method that takes (labels, seed).")


def _check_images(sampler: ClassConditionalSampler, num_images: int) -> None:
    for labels in (_mixed_labels(sampler, num_images), torch.zeros(1, dtype=torch.int64)):
        _draw(sampler, labels, 0)


def _check_empty(sampler: ClassConditionalSampler) -> None:
    _draw(sampler, torch.empty(0, dtype=torch.int64), 0)


def _check_order(sampler: ClassConditionalSampler, num_images: int) -> None:
    if sampler.num_classes == 1:
        return
    labels = _mixed_labels(sampler, num_images)
    images = _draw(sampler, labels, 0).clone()
    require(
        not torch.equal(images, _draw(sampler, labels.flip(0), 0)),
        "sample() gives the same images for the same labels in reverse, so it ignores labels or "
        "sorts them; image i must show labels[i].",
    )


def _check_repeats(sampler: ClassConditionalSampler, num_images: int) -> None:
    labels = _mixed_labels(sampler, num_images)
    images = _draw(sampler, labels, 1)
    kept = images.clone()
    again = _draw(sampler, labels, 1)
    require(
        torch.equal(kept, again),
        "sample() gives other images for the same labels and seed; draw all its randomness from "
        "a generator made of seed alone.",
    )
    require(
        images.untyped_storage().data_ptr() != again.untyped_storage().data_ptr(),
        "sample() returns the same memory twice, so that its images change under the caller's "
        "hands; return new memory each time.",
    )


def _check_variety(sampler: ClassConditionalSampler, num_images: int) -> None:
    for label in {0, sampler.num_classes - 1}:
        images = _draw(sampler, torch.full((num_images,), label), 0)
        require(
            bool((images != images[:1]).any()),
            f"sample() draws one and the same image {num_images} times for class {label}; draw "
            "the randomness of each image anew.",
        )


def _check_seeds(sampler: ClassConditionalSampler, num_images: int) -> None:
    labels = _mixed_labels(sampler, num_images)
    images = _draw(sampler, labels, 0).clone()
    for seed in (1, derive_seed(0), _LARGEST_SEED):
        require(
            not torch.equal(images, _draw(sampler, labels, seed)),
            f"sample() gives the same images for seeds 0 and {seed}; draw its randomness from a "
            "generator made of seed, which lies in 0..2^63-1.",
        )


def _check_random_state(sampler: ClassConditionalSampler, num_images: int) -> None:
    labels = _mixed_labels(sampler, num_images)
    before = random_states()
    # Two seeds: an earlier draw may have left the very state that the first of them sets.
    for seed in (0, 1):
        _draw(sampler, labels, seed)
        after = random_states()
        for owner, state in before.items():
            require(
                state == after[owner],
                f"sample() changes the global random state of {owner}; draw from a generator of "
                "its own, such as torch.Generator().manual_seed(seed).",
            )


def _check_labels_untouched(sampler: ClassConditionalSampler, num_images: int) -> None:
    labels = _mixed_labels(sampler, num_images)
    given = labels.clone()
    sampler.sample(given, 0)
    require(
        torch.equal(labels, given), "sample() modifies its argument labels; work on a copy of it."
    )


def _check_label_range(sampler: ClassConditionalSampler) -> None:
    for label in (-1, sampler.num_classes):
        try:
            sampler.sample(torch.tensor([0, label]), 0)
        except Exception:  # noqa: S112 - any exception will do
            continue
        raise AssertionError(
            f"sample() accepts label {label}, which is no class of 0..{sampler.num_classes - 1}; "
            "raise an error."
        )


def _check_fingerprint(sampler: ClassConditionalSampler, num_images: int) -> None:
    first = sampler.fingerprint
    _draw(sampler, _mixed_labels(sampler, num_images), 0)
    require(
        sampler.fingerprint == first,
        "fingerprint changes from one reading to the next; it must stay while the images stay.",
    )


def _mixed_labels(sampler: ClassConditionalSampler, num_images: int) -> Tensor:
    """int64 (num_images,) of mixed classes, the last class first and the first one last."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(sampler.num_classes, (num_images,), generator=rng)
    labels[0], labels[-1] = sampler.num_classes - 1, 0
    return labels


def _draw(sampler: ClassConditionalSampler, labels: Tensor, seed: int) -> Tensor:
    """What ``sample`` returns, if it has the right form: uint8 (N, 3, R, R) on the CPU."""
    asked = f"{len(labels)} labels of 0..{sampler.num_classes - 1} and seed {seed}"
    try:
        images: object = sampler.sample(labels.clone(), seed)
    except Exception as error:
        raise AssertionError(f"sample() fails on {asked}: {error!r}.") from error
    if not isinstance(images, Tensor):
        raise AssertionError(f"sample() must return a Tensor, not a {type(images).__name__}.")
    side = sampler.resolution
    expected = (len(labels), 3, side, side)
    require(
        tuple(images.shape) == expected,
        f"sample() must return shape {expected} for {asked}, not {tuple(images.shape)}.",
    )
    require(images.dtype == torch.uint8, f"sample() must return uint8, not {images.dtype}.")
    require(images.device.type == "cpu", f"sample() must return CPU memory, not {images.device}.")
    return images
