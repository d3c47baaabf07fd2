import pytest

from signforge.benchmark.arm_selection import select_arms
from signforge.benchmark.budget import BUDGETS, budget_keys, left_out
from signforge.cli.benchmark import within_budget
from signforge.cli.options import ConfigOptions, DataOptions, GanOptions, resolve_config
from signforge.config import Config
from signforge.config_file import load_config
from signforge.errors import SignforgeError


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_is_a_valid_config_of_known_arms(name):
    config = load_config(None, list(budget_keys(name).items()))
    assert config.benchmark.budget == name
    assert tuple(select_arms(config.benchmark.arms)) == config.benchmark.arms
    assert "real" in config.benchmark.arms


def test_a_larger_budget_does_more():
    quick, standard, thorough = (
        load_config(None, list(budget_keys(name).items())) for name in BUDGETS
    )
    for less, more in ((quick, standard), (standard, thorough)):
        assert set(less.benchmark.arms) < set(more.benchmark.arms)
        assert less.benchmark.seeds < more.benchmark.seeds
        assert less.classifier.steps < more.classifier.steps
        assert less.benchmark.extractor_steps < more.benchmark.extractor_steps


def test_what_is_left_out_is_said_by_the_values_themselves():
    quick = load_config(None, list(budget_keys("quick").items()))
    said = left_out(quick)
    assert said.startswith("`--budget quick` leaves out of what `--budget standard` does: 2 of 3 ")
    for expected in (
        "1,400 of 2,000 steps of each classifier",
        "the arms oversample, class_balanced_loss, ldam_drw, oversample_tenth_relit+ldam_drw, "
        "synthetic_tenth_relit+ldam_drw",
        "the classification accuracy score",
        "With a single seed",
    ):
        assert expected in said
    more = load_config(None, [*budget_keys("quick").items(), ("benchmark.seeds", 3)])
    assert "seed" not in left_out(more)
    assert "2 of 5 seeds" in left_out(load_config(None, list(budget_keys("standard").items())))
    assert left_out(load_config(None, list(budget_keys("thorough").items()))) is None
    assert left_out(Config()) is None


def test_what_other_calls_have_trained_is_not_left_out():
    quick = load_config(None, list(budget_keys("quick").items()))
    arms = BUDGETS["standard"]["benchmark.arms"]
    said = left_out(quick, dict.fromkeys(arms, 3))
    assert "seed" not in said
    assert "the arms" not in said
    for steps in ("1,400 of 2,000 steps of each", "300 of 600 steps of the gate", "400 of 800 "):
        assert steps in said
    assert "1 of 3 seeds" in left_out(quick, {**dict.fromkeys(arms, 3), "oversample": 2})


def test_explicit_options_go_over_the_budget_and_it_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("classifier: {steps: 77, batch_size: 5}\nbenchmark: {seeds: 9}\n")
    source = ConfigOptions(config=str(file), settings=["classifier.steps=55"])
    config = resolve_config(
        within_budget("quick", source), DataOptions(), GanOptions(minutes=2), {"benchmark.seeds": 4}
    )
    assert (config.classifier.steps, config.classifier.batch_size) == (55, 5)
    assert (config.benchmark.seeds, config.benchmark.cas_steps) == (4, 0)
    assert config.gan.max_minutes == 2
    assert config.benchmark.arms == ("real", "logit_adjustment", "synthetic")
    assert within_budget(None, source) == source


def test_an_unknown_budget_is_one_sentence():
    with pytest.raises(SignforgeError, match="Unknown budget 'huge': choose one of quick, "):
        budget_keys("huge")
