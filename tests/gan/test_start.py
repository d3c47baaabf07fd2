import shutil

import pytest

from signforge.errors import SignforgeError
from signforge.gan.training import TrainingEvents, train_cgan


def test_a_generator_without_checkpoints_can_neither_go_on_nor_be_trained_over(
    make_config, make_train, tmp_path
):
    config, train = make_config(), make_train()
    train_cgan(config, train, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(SignforgeError, match=r"no checkpoint to resume from; .* another --out"):
        train_cgan(config, train, tmp_path, resume=True)
    with pytest.raises(SignforgeError, match="already holds a generator; use another --out"):
        train_cgan(config, train, tmp_path)


def test_an_existing_run_needs_resume_and_is_left_alone(make_config, make_train, tmp_path):
    config, train = make_config(), make_train()
    train_cgan(config, train, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    started = []
    events = TrainingEvents(on_start=lambda: started.append(True))
    with pytest.raises(SignforgeError, match="already holds a training run; use --resume"):
        train_cgan(config, train, tmp_path, events=events)
    assert started == []
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_nothing_to_resume_is_an_error(make_config, make_train, tmp_path):
    with pytest.raises(SignforgeError, match="no checkpoint to resume from; start without"):
        train_cgan(make_config(), make_train(), tmp_path, resume=True)


def test_resume_with_other_networks_is_one_sentence(make_config, make_train, tmp_path):
    train_cgan(make_config(), make_train(), tmp_path)
    with pytest.raises(SignforgeError, match="cannot be resumed") as error:
        train_cgan(make_config(base_channels=8), make_train(), tmp_path, resume=True)
    assert "\n" not in str(error.value)
