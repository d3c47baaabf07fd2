"""A classifier's training that is cut short and gone on with ends as one that never was."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from signforge.classify.checkpoint import FitCheckpoint
from signforge.classify.model import build_classifier
from signforge.classify.training import Ending, FitResult, fit_classifier
from signforge.config import ClassifierConfig
from signforge.errors import SignforgeError
from signforge.progress import Stopped, Track, no_progress
from support.squares import CLASSES, SIZE, squares

T = TypeVar("T")
STEPS = 10


def config(**changes: object) -> ClassifierConfig:
    values = {"name": "test_resnet", "steps": STEPS, "batch_size": 16, "device": "cpu"}
    return ClassifierConfig.model_validate({**values, **changes})


def convolutional() -> nn.Module:
    return build_classifier(
        "test_resnet", num_classes=CLASSES, resolution=SIZE, pretrained=False, seed=0
    )


def with_dropout() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(3 * SIZE * SIZE, 8)
        return nn.Sequential(nn.Flatten(), hidden, nn.Dropout(0.5), nn.Linear(8, CLASSES))


def stop_after(steps: int, exception: type[BaseException] = Stopped) -> Track:
    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        del description, total
        for number, item in enumerate(items, start=1):
            yield item
            if number == steps:
                raise exception

    return track


class Seen(Dataset[tuple[Tensor, int]]):
    """Squares whose pixels jitter at random; notes which were read, by epoch."""

    def __init__(self, n: int) -> None:
        self.images = squares(n)
        self.read: list[tuple[int, int]] = []
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append((self.epoch, index))
        image, label = self.images[index]
        return (image.float() * torch.rand(())).to(torch.uint8), label


Fit = Callable[..., FitResult]
VARIANTS: dict[str, tuple[Callable[[], nn.Module], Fit]] = {
    "fp32": (
        convolutional,
        lambda model, **rest: fit_classifier(
            model, squares(40), config=config(precision="fp32"), seed=1, **rest
        ),
    ),
    "bf16": (
        convolutional,
        lambda model, **rest: fit_classifier(
            model, squares(40), config=config(precision="bf16"), seed=1, **rest
        ),
    ),
    "dropout and random items": (
        with_dropout,
        lambda model, **rest: fit_classifier(model, Seen(40), config=config(), seed=1, **rest),
    ),
    "workers": (
        convolutional,
        lambda model, **rest: fit_classifier(
            model, squares(40), config=config(num_workers=2), seed=1, **rest
        ),
    ),
    "ending": (
        convolutional,
        lambda model, **rest: fit_classifier(
            model,
            squares(40),
            config=config(),
            seed=1,
            ending=Ending(squares(35, seed=1), share=0.4),
            **rest,
        ),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stops", [(1,), (3, 4), (7, 1), (STEPS,)], ids=str)
def test_stopped_and_gone_on_with_it_ends_the_same(
    tmp_path: Path, variant: str, stops: tuple[int, ...]
) -> None:
    make, fit = VARIANTS[variant]
    whole, checkpoint = make(), FitCheckpoint(tmp_path / "kept/part.safetensors", "x")
    expected = fit(whole)
    for steps in stops:
        torch.rand(steps)  # what the caller has drawn in between does not count
        with pytest.raises(Stopped):
            fit(make(), checkpoint=checkpoint, track=stop_after(steps))
    model = make()
    found = fit(model, checkpoint=checkpoint)
    assert (found.images, found.final_loss) == (expected.images, expected.final_loss)
    assert found.seconds > 0
    weights = model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in whole.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_full_gpu_says_nothing_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = FitCheckpoint(tmp_path / "part.safetensors", "x")
    make, fit = VARIANTS["fp32"]
    with pytest.raises(Stopped):
        fit(make(), checkpoint=checkpoint, track=stop_after(2))

    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("signforge.classify.checkpoint.restore_state", full)
    with pytest.raises(SignforgeError, match=r"^CUDA out of memory; lower classifier.batch_size"):
        fit(make(), checkpoint=checkpoint)
    assert checkpoint.path.exists()


def test_what_is_drawn_anew_after_a_stop_is_drawn_by_the_same_algorithms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which outlives the training

    class Drawn(Seen):
        def __init__(self) -> None:
            super().__init__(40)
            self.deterministic: list[bool] = []

        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(epoch)
            self.deterministic.append(torch.are_deterministic_algorithms_enabled())

    checkpoint = FitCheckpoint(tmp_path / "part.safetensors", "x")
    settings = config(deterministic=True)
    first, second = Drawn(), Drawn()
    with pytest.raises(Stopped):
        fit_classifier(
            with_dropout(),
            first,
            config=settings,
            seed=1,
            checkpoint=checkpoint,
            track=stop_after(5),
        )
    fit_classifier(with_dropout(), second, config=settings, seed=1, checkpoint=checkpoint)
    assert set(first.deterministic) == set(second.deterministic) == {True}


def test_nothing_is_read_again(tmp_path: Path) -> None:
    checkpoint = FitCheckpoint(tmp_path / "part.safetensors", "x")
    whole, first, second = Seen(40), Seen(40), Seen(40)
    fit_classifier(with_dropout(), whole, config=config(), seed=1)
    with pytest.raises(Stopped):
        fit_classifier(
            with_dropout(),
            first,
            config=config(),
            seed=1,
            checkpoint=checkpoint,
            track=stop_after(5),
        )
    fit_classifier(with_dropout(), second, config=config(), seed=1, checkpoint=checkpoint)
    assert first.read + second.read == whole.read


@pytest.mark.parametrize("steps", [4, 5, 6, 9, STEPS])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_data_set_ends_at_its_last_epoch(tmp_path: Path, steps: int, share: float) -> None:
    """What it then says of its samples is written into the row."""
    checkpoint = FitCheckpoint(tmp_path / "part.safetensors", "x")

    def fit(dataset: Seen, track: Track = no_progress) -> None:
        ending = Ending(squares(32, seed=1), share=share) if share else None
        model = convolutional()
        fit_classifier(
            model,
            dataset,
            config=config(),
            seed=1,
            ending=ending,
            checkpoint=checkpoint,
            track=track,
        )

    first, second = Seen(40), Seen(40)
    with pytest.raises(Stopped):
        fit(first, stop_after(steps))
    fit(second)
    assert second.epoch == (4 if share == 0 else 2)  # of two batches each


def test_one_that_cannot_be_written_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checkpoint = FitCheckpoint(tmp_path / "file/part.safetensors", "x", every_seconds=0.0)
    make, fit = VARIANTS["fp32"]
    whole, model = make(), make()
    fit(whole)
    with pytest.warns(UserWarning, match=r"part\.safetensors.* goes on without a checkpoint\.$"):
        fit(model, checkpoint=checkpoint)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in whole.state_dict().items())
    with pytest.raises(Stopped), pytest.warns(UserWarning, match="without a checkpoint"):
        fit(make(), checkpoint=checkpoint, track=stop_after(2))


def test_what_is_left_is_told(tmp_path: Path) -> None:
    checkpoint, totals = FitCheckpoint(tmp_path / "part.safetensors", "x"), []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        totals.append(total)
        stop = stop_after(4) if total == STEPS else no_progress
        return stop(items, description, total)

    fit = VARIANTS["fp32"][1]
    with pytest.raises(Stopped):
        fit(convolutional(), checkpoint=checkpoint, track=track)
    fit(convolutional(), checkpoint=checkpoint, track=track)
    assert totals == [STEPS, STEPS - 4]


@pytest.mark.parametrize(("every_seconds", "files"), [(0.0, 1), (1e9, 0)])
def test_it_is_written_every_so_often(tmp_path: Path, every_seconds: float, files: int) -> None:
    checkpoint = FitCheckpoint(tmp_path / "part.safetensors", "x", every_seconds)
    make, fit = VARIANTS["fp32"]
    with pytest.raises(KeyboardInterrupt):
        fit(make(), checkpoint=checkpoint, track=stop_after(3, KeyboardInterrupt))
    assert len(list(tmp_path.iterdir())) == files
    if files:
        kept = load_file(checkpoint.path)
        assert {value.item() for key, value in kept.items() if key.endswith(".step")} == {3}


def cut_short(path: Path, identity: str = "x") -> FitCheckpoint:
    """A checkpoint after 3 steps."""
    checkpoint = FitCheckpoint(path, identity)
    make, fit = VARIANTS["fp32"]
    with pytest.raises(Stopped):
        fit(make(), checkpoint=checkpoint, track=stop_after(3))
    return checkpoint


def test_another_training_begins_anew(tmp_path: Path) -> None:
    path = cut_short(tmp_path / "part.safetensors").path
    make, fit = VARIANTS["fp32"]
    whole, other = make(), make()
    fit(whole)
    fit(other, checkpoint=FitCheckpoint(path, "y"))
    assert all(torch.equal(other.state_dict()[k], v) for k, v in whole.state_dict().items())
    before = path.read_bytes()
    cut_short(path, "y")
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    "place",
    [
        lambda _content: 0,
        lambda content: content.index(b'"sha256":"') + 10,
        lambda content: content.index(b'"dtype":"') + 9,
        lambda content: 8 + int.from_bytes(content[:8], "little"),
        lambda _content: -1,
    ],
    ids=["length of the header", "hash", "type", "first weight", "last weight"],
)
def test_one_flipped_byte_is_one_sentence(
    tmp_path: Path, place: Callable[[bytearray], int]
) -> None:
    checkpoint = cut_short(tmp_path / "part.safetensors")
    content = bytearray(checkpoint.path.read_bytes())
    content[place(content)] ^= 1
    checkpoint.path.write_bytes(content)
    make, fit = VARIANTS["fp32"]
    with pytest.raises(SignforgeError, match=r"part\.safetensors cannot .*; delete it to train"):
        fit(make(), checkpoint=checkpoint)


def test_another_model_is_one_sentence(tmp_path: Path) -> None:
    checkpoint = cut_short(tmp_path / "part.safetensors")
    with pytest.raises(SignforgeError, match=r"cannot be gone on from .*; delete it to train"):
        VARIANTS["dropout and random items"][1](with_dropout(), checkpoint=checkpoint)
