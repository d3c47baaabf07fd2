import math
from collections.abc import Iterator
from itertools import combinations, pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, Sampler, TensorDataset

from signforge.classify.augment import normalise
from signforge.classify.losses import Deferred
from signforge.classify.model import build_classifier
from signforge.classify.training import (
    Ending,
    FitResult,
    fit_classifier,
    learning_rate,
    predict_logits,
)
from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed
from support.squares import CLASSES, SIZE, squares


def tiny(seed: int = 0) -> nn.Module:
    return build_classifier(
        "test_resnet", num_classes=CLASSES, resolution=SIZE, pretrained=False, seed=seed
    )


def config(steps: int = 4, **changes: object) -> ClassifierConfig:
    values = {"name": "test_resnet", "steps": steps, "batch_size": 16, "device": "cpu", **changes}
    return ClassifierConfig.model_validate(values)


def fit(dataset: Dataset, seed: int = 0, **changes: object) -> tuple[dict[str, Tensor], FitResult]:
    """Weights after training, and what fit_classifier says."""
    model = tiny()
    result = fit_classifier(model, dataset, config=config(**changes), seed=seed)
    return model.state_dict(), result


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


def test_learns() -> None:
    model, held_out = tiny(), squares(80, seed=1)
    before = F.cross_entropy(predict_logits(model, held_out.images), held_out.labels)
    result = fit_classifier(model, squares(160), config=config(60), seed=0)
    logits = predict_logits(model, held_out.images)
    accuracy = (logits.argmax(dim=1) == held_out.labels).float().mean()
    assert accuracy > 0.9
    assert result.final_loss < float(before) / 2
    assert result.seconds > 0
    assert model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_gives_the_same_bits(precision: str) -> None:
    first, _ = fit(squares(40), precision=precision)
    torch.rand(3)
    again, _ = fit(squares(40), precision=precision)
    other, _ = fit(squares(40), seed=1, precision=precision)
    assert equal(first, again)
    assert not equal(first, other)


# A machine with one core is warned about two workers, Python 3.12 about forking with threads.
@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded")
def test_workers_change_nothing() -> None:
    alone, _ = fit(squares(40), steps=5)
    helped, _ = fit(squares(40), steps=5, num_workers=2)
    assert equal(alone, helped)


def test_every_augmentation_trains_other_weights() -> None:
    policies = ("none", "basic", "randaugment")
    trained = [fit(squares(40), steps=2, augment=policy)[0] for policy in policies]
    assert not any(equal(*pair) for pair in combinations(trained, 2))


def test_order_changes_with_seed_without_augmentation() -> None:
    first, _ = fit(squares(40), augment="none")
    other, _ = fit(squares(40), seed=1, augment="none")
    assert not equal(first, other)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    fit(squares(20))
    assert torch.equal(before, torch.get_rng_state())


class CountedOptimizer(torch.optim.AdamW):
    steps = 0

    def step(self, *args: object, **options: object) -> None:
        CountedOptimizer.steps += 1
        super().step(*args, **options)


@pytest.mark.parametrize(("n", "images"), [(10, 70), (16, 112), (17, 112), (40, 112), (200, 112)])
def test_steps_are_exact_whatever_the_length(
    n: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountedOptimizer, "steps", 0)
    monkeypatch.setattr(torch.optim, "AdamW", CountedOptimizer)
    _, result = fit(squares(n), steps=7)
    assert CountedOptimizer.steps == 7
    assert result.images == images


class Recorded(Dataset):
    """Remembers epochs and indices."""

    def __init__(self, images: LabeledImages) -> None:
        self.images = images
        self.epochs: list[int] = []
        self.seen: list[list[int]] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)
        self.seen.append([])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.seen[-1].append(index)
        return self.images[index]


def test_every_epoch_is_a_new_shuffle() -> None:
    dataset = Recorded(squares(32))
    fit_classifier(tiny(), dataset, config=config(5), seed=0)
    assert dataset.epochs == [0, 1, 2]
    assert sorted(dataset.seen[0]) == sorted(dataset.seen[1]) == list(range(32))
    assert dataset.seen[0] != dataset.seen[1]


class OnlyFirst(Sampler[int]):
    """The same four indices every time."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        return iter((3, 1, 2, 0))


def test_a_given_sampler_decides() -> None:
    dataset, sampler = Recorded(squares(32)), OnlyFirst()
    result = fit_classifier(tiny(), dataset, config=config(3), seed=0, sampler=sampler)
    assert dataset.seen == [[3, 1, 2, 0]] * 3
    assert sampler.epochs == [0, 1, 2]
    assert result.images == 12


def test_logits_that_are_not_finite_are_no_prediction() -> None:
    model = tiny()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    with pytest.raises(SignforgeError, match=r"not finite.*lower classifier\.learning_rate"):
        predict_logits(model, squares(20).images)


def test_a_tensor_dataset_trains_the_same() -> None:
    images = squares(40)
    plain, _ = fit(TensorDataset(images.images, images.labels))
    ours, _ = fit(images)
    assert equal(plain, ours)


def test_loss_gets_float32_logits_and_labels() -> None:
    seen: list[tuple[torch.dtype, torch.dtype, torch.Size]] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append((logits.dtype, labels.dtype, logits.shape))
        return F.cross_entropy(logits, labels)

    fit_classifier(tiny(), squares(40), config=config(2, precision="bf16"), seed=0, loss=loss)
    assert seen == [(torch.float32, torch.int64, torch.Size((16, CLASSES)))] * 2


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    model = tiny()
    before = {key: value.clone() for key, value in model.named_parameters()}
    with pytest.raises(SignforgeError, match=r"loss became nan at step 1 of 4.*learning_rate"):
        fit_classifier(
            model,
            squares(40),
            config=config(),
            seed=0,
            loss=lambda logits, _: logits.sum() * math.nan,
        )
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())


class SteepAtNothing(torch.autograd.Function):
    """Zero, with a gradient that is not finite: as the square root has at 0."""

    @staticmethod
    def forward(ctx: object, logits: Tensor) -> Tensor:
        del ctx
        return logits.sum() * 0

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        del ctx
        return (gradient * math.inf).expand(16, CLASSES)


def test_a_gradient_that_is_not_finite_stops_before_the_update() -> None:
    """The loss tells only after the weights have become NaN."""
    model = tiny()
    before = {key: value.clone() for key, value in model.named_parameters()}
    with pytest.raises(
        SignforgeError, match=r"gradient became nan at step 1 of 4; lower .*learning_rate"
    ):
        fit_classifier(
            model,
            squares(40),
            config=config(),
            seed=0,
            loss=lambda logits, _: SteepAtNothing.apply(logits),
        )
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_may_have_one_dimension_and_another_type(dtype: torch.dtype) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels).to(dtype)[None]

    plain, shaped = tiny(), tiny()
    expected = fit_classifier(plain, squares(40), config=config(), seed=0)
    result = fit_classifier(shaped, squares(40), config=config(), seed=0, loss=loss)
    assert result.final_loss == expected.final_loss
    assert equal(plain.state_dict(), shaped.state_dict())


def test_norms_and_biases_are_not_decayed() -> None:
    """With a loss without gradient only weight decay moves weights."""
    model = tiny()
    before = {key: value.clone() for key, value in model.named_parameters()}
    fit_classifier(
        model, squares(40), config=config(3), seed=0, loss=lambda logits, _: logits.sum() * 0
    )
    for key, value in model.named_parameters():
        assert torch.equal(before[key], value) == (value.ndim <= 1), key


def test_weights_decay_by_the_learning_rate_of_each_step() -> None:
    model = tiny()
    before = {key: value.clone() for key, value in model.named_parameters()}
    settings = config(3, learning_rate=0.1, weight_decay=0.2)
    rates = [learning_rate(step, settings) for step in range(3)]
    assert len(set(rates)) == 3
    fit_classifier(
        model, squares(40), config=settings, seed=0, loss=lambda logits, _: logits.sum() * 0
    )
    shrunk = math.prod(1 - rate * 0.2 for rate in rates)
    for key, value in model.named_parameters():
        expected = before[key] * shrunk if value.ndim > 1 else before[key]
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=0, msg=key)


class Snapshots:
    """Plain cross-entropy that remembers the weights before each step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.states: list[dict[str, Tensor]] = []

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.states.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return F.cross_entropy(logits, labels)


def test_an_ending_trains_the_last_layer_alone_on_its_own_images() -> None:
    model = tiny()
    first, second, seen = Recorded(squares(160)), Recorded(squares(64, seed=1)), Snapshots(model)
    result = fit_classifier(
        model, first, config=config(10), seed=0, loss=seen, ending=Ending(second)
    )
    assert result.images == 10 * 16
    assert [len(indices) for indices in first.seen] == [8 * 16]
    assert [len(indices) for indices in second.seen] == [2 * 16]
    # States 8 and 9 are those before the two last steps; running means stand still as well.
    at_the_end = model.state_dict()
    head = ("fc.weight", "fc.bias")
    for key, value in at_the_end.items():
        assert torch.equal(value, seen.states[8][key]) == (key not in head), key
    assert not torch.equal(seen.states[8]["fc.weight"], seen.states[9]["fc.weight"])
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_before_its_ending_a_training_is_as_without() -> None:
    states = []
    for ending in (None, Ending(squares(64, seed=1))):
        model = tiny()
        loss = Snapshots(model)
        fit_classifier(model, squares(40), config=config(5), seed=0, loss=loss, ending=ending)
        states.append(loss.states[:4])
    assert all(equal(plain, ended) for plain, ended in zip(*states, strict=True))


def test_an_ending_repeats_by_seed_and_leaves_out_what_is_rounded_away() -> None:
    def weights(seed: int, steps: int) -> dict[str, Tensor]:
        model = tiny()
        ending = Ending(squares(64, seed=1), OnlyFirst())
        fit_classifier(model, squares(40), config=config(steps), seed=seed, ending=ending)
        return model.state_dict()

    assert equal(weights(0, 5), weights(0, 5))
    assert not equal(weights(0, 5), weights(1, 5))
    assert equal(weights(0, 2), fit(squares(40), steps=2)[0])  # a fifth of 2 is no step


def test_a_deferred_loss_takes_over_at_its_step() -> None:
    calls: list[str] = []

    def noted(name: str) -> object:
        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            calls.append(name)
            return F.cross_entropy(logits, labels)

        return loss

    loss = Deferred(noted("early"), noted("late"), share=0.6)
    fit_classifier(tiny(), squares(40), config=config(5), seed=0, loss=loss)
    assert calls == ["early"] * 3 + ["late"] * 2


def test_a_compiled_training_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code generator left out, which takes a minute and changes the last bits."""
    compiled: list[nn.Module] = []
    original = torch.compile

    def compile_eagerly(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return original(model, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    states = []
    for wanted in (False, True):
        model = tiny()
        ending = Ending(squares(16, seed=1))
        settings = config(3, compile=wanted, precision="fp32")
        fit_classifier(model, squares(40), config=settings, seed=0, ending=ending)
        states.append(model.state_dict())
        assert len(compiled) == wanted
    assert equal(*states)


@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_algorithms_are_taken_where_asked_for(
    monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which outlives the training
    asked = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        asked.append(torch.are_deterministic_algorithms_enabled())
        return F.cross_entropy(logits, labels)

    settings = config(3, deterministic=wanted)
    fit_classifier(tiny(), squares(40), config=settings, seed=0, loss=loss)
    assert asked == [wanted] * 3
    assert not torch.are_deterministic_algorithms_enabled()


def floats(n: int = 20) -> TensorDataset:
    return TensorDataset(torch.rand(n, 3, SIZE, SIZE), torch.zeros(n, dtype=torch.int64))


def bytes_of(*shape: int, label: int = 0) -> TensorDataset:
    labels = torch.full((20,), label)
    return TensorDataset(torch.zeros(20, *shape, dtype=torch.uint8), labels)


class Uneven(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3, 10 + index, 16, dtype=torch.uint8), 0


class SometimesMarked(Dataset):
    """Pairs, and triples that say of their image that it is synthetic."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor | int | bool, ...]:
        item = (torch.zeros(3, 16, 16, dtype=torch.uint8), 0)
        return item if index % 2 else (*item, True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (floats(), r"must be uint8 tensors \(3, R, R\), got float32 \(3, 16, 16\)"),
        (bytes_of(3, 20, 20), r"takes uint8 images \(3, 16, 16\), got uint8 \(3, 20, 20\)"),
        (bytes_of(1, 16, 16), r"got uint8 \(1, 16, 16\)"),
        (bytes_of(16, 16), r"got uint8 \(16, 16\)"),
        (bytes_of(3, 16, 16, label=4), "label 4, but .* 0..3"),
        (bytes_of(3, 16, 16, label=-1), "label -1"),
        (Uneven(), "must all have one size"),
        (SometimesMarked(), r"of the 16 items of a batch tell .*: give all .* a third member, or"),
    ],
)
def test_unfit_items_are_one_sentence(dataset: Dataset, message: str, workers: int) -> None:
    with pytest.raises(SignforgeError, match=message) as caught:
        fit_classifier(tiny(), dataset, config=config(num_workers=workers), seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_an_error(n: int) -> None:
    with pytest.raises(SignforgeError, match=r"no image to train|at least 2 images"):
        fit_classifier(tiny(), squares(8).subset(torch.arange(n)), config=config(), seed=0)


def test_random_sampler_without_generator_is_seeded_too() -> None:
    first, second = tiny(), tiny()
    for model in (first, second):
        torch.rand(1)
        dataset = squares(40)
        fit_classifier(model, dataset, config=config(), seed=0, sampler=RandomSampler(dataset))
    assert equal(first.state_dict(), second.state_dict())


def test_predictions_do_not_depend_on_batches_or_mode() -> None:
    model, images = tiny().eval(), squares(37).images
    with torch.no_grad():
        expected = model(normalise(images))
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for batch_size in (5, 512):
        logits = predict_logits(model, images, batch_size=batch_size, precision="fp32")
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert model.training
    assert equal(state, model.state_dict())


def test_predictions_in_bf16_are_float32_and_close() -> None:
    model, images = tiny(), squares(8).images
    exact = predict_logits(model, images, precision="fp32")
    rough = predict_logits(model, images, precision="bf16")
    assert rough.dtype == torch.float32
    assert 0 < float((exact - rough).abs().max()) < 0.1


def test_predicting_needs_images_of_the_resolution() -> None:
    with pytest.raises(SignforgeError, match=r"takes uint8 images \(3, 16, 16\)"):
        predict_logits(tiny(), torch.zeros(2, 3, 20, 20, dtype=torch.uint8))
    with pytest.raises(SignforgeError, match="no image"):
        predict_logits(tiny(), torch.zeros(0, 3, 16, 16, dtype=torch.uint8))


def test_rate_warms_up_and_falls_to_almost_nothing() -> None:
    settings = config(100, learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001


def test_rate_without_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, config(1, learning_rate=0.5, warmup_fraction=0.0)) == 0.5


def test_derived_seeds_differ_where_torch_looks() -> None:
    """torch's CPU generator only reads the low 32 bits."""
    low = {
        derive_seed(seed, stream, step) % 2**32
        for seed in (0, 1, 2**40)
        for stream in range(3)
        for step in range(50)
    }
    assert len(low) == 450
    assert derive_seed(-1) != derive_seed(1)
