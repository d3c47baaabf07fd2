from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.balance.plan import BalancePlan, ClassDecision
from signforge.balance.strategy import (
    describe_class,
    resolve_sampling_strategy,
    strategy_file_sha256,
)
from signforge.errors import SignforgeError

NAMES = ("stop", "yield", "no entry")
# Class sizes of the introduction in imbalanced-learn's user guide (5,000 samples).
COUNTS = (64, 262, 4674)

class_counts = st.lists(st.integers(1, 500), min_size=1, max_size=12)
fractions = st.one_of(st.just(1.0), st.decimals(0, 1, places=3).map(float))


def resolve(strategy, counts=COUNTS, names=NAMES, **options):
    return resolve_sampling_strategy(
        strategy, torch.tensor(counts), class_names=names, **options
    ).tolist()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("auto", [4674, 4674, 4674]),
        ("not majority", [4674, 4674, 4674]),
        ("all", [4674, 4674, 4674]),
        ("minority", [4674, 262, 4674]),
        ("not minority", [64, 4674, 4674]),
        ({0: 100}, [100, 262, 4674]),
        ({"yield": 300, 2: 5000}, [64, 300, 5000]),
        ({"1": 300}, [64, 300, 4674]),
        (
            lambda counts: {label: max(count, 500) for label, count in counts.items()},
            [500, 500, 4674],
        ),
    ],
)
def test_counts_are_those_of_imbalanced_learn(strategy, expected):
    assert resolve(strategy) == expected


def test_ties_go_to_the_first_class():
    assert resolve("minority", (3, 3, 9)) == [9, 3, 9]
    assert resolve("not minority", (3, 3, 9)) == [3, 9, 9]


@pytest.mark.parametrize(
    ("ratio", "counts", "expected"),
    [(0.5, (900, 100), [900, 450]), (1.0, (30, 100), [100, 100]), (0.7, (1, 10), [7, 10])],
)
def test_ratio_of_two_classes(ratio, counts, expected):
    assert resolve(ratio, counts, NAMES[:2]) == expected


def test_a_name_goes_before_an_id_of_the_same_digits():
    names = ("0", "10", "1")
    assert resolve({"1": 9}, (5, 5, 5), names) == [5, 5, 9]
    assert resolve({1: 9}, (5, 5, 5), names) == [5, 9, 5]


def test_yaml_file_of_counts(tmp_path: Path):
    file = tmp_path / "counts.yaml"
    file.write_text("stop: 70\n1: 300\n", encoding="utf-8")
    assert resolve(file) == [70, 300, 4674]
    assert resolve(str(file)) == [70, 300, 4674]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, 10), (0.5, 20), (0.9, 100), (0.99, 1000), (1.0, 1000), (True, 1000)],
)
def test_cap_by_hand(fraction, expected):
    assert resolve("auto", (10, 1000), NAMES[:2], max_synthetic_fraction=fraction)[0] == expected


@settings(deadline=None)
@given(class_counts)
def test_auto_makes_all_classes_as_large_as_the_largest(counts):
    names = [str(label) for label in range(len(counts))]
    assert resolve("auto", counts, names) == [max(counts)] * len(counts)


@settings(deadline=None)
@given(
    class_counts,
    st.sampled_from(["auto", "minority", "not minority", "not majority", "all"]),
    fractions,
)
def test_no_real_image_is_removed_and_the_cap_holds(counts, policy, fraction):
    names = [str(label) for label in range(len(counts))]
    free = resolve(policy, counts, names)
    capped = resolve(policy, counts, names, max_synthetic_fraction=fraction)
    for real, wanted, target in zip(counts, free, capped, strict=True):
        assert real <= target <= wanted
        assert Fraction(target - real, target) <= Fraction(str(fraction))
        if target < wanted:
            assert Fraction(target + 1 - real, target + 1) > Fraction(str(fraction))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"stop": 63}, r"class 0 \('stop'\) has 64 real images, a target of 63"),
        ({"yeild": 300}, "no class 'yeild'; did you mean 'yield'"),
        ({7: 300}, r"no class 7; class ids are 0\.\.2"),
        ({-1: 300}, "no class -1"),
        ({True: 300}, "no class True"),
        ({1.5: 300}, "1.5 is not a class name or an id"),
        ({"stop": 64.5}, r"class 0 \('stop'\) must be a whole number of images, got 64.5"),
        ({"stop": 10**30}, "whole number"),
        ({"stop": 70, 0: 80}, r"'stop' and 0 both mean class 0"),
        (0.5, "which only two classes can have, but there are 3"),
        ("majority", "'majority' is neither one of auto, minority"),
        (None, "cannot be a NoneType"),
        (lambda counts: sum(counts.values()), "callable: must return .* returned int"),
    ],
)
def test_bad_strategies(strategy, message):
    with pytest.raises(SignforgeError, match=message):
        resolve(strategy)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_bad_ratios(ratio):
    with pytest.raises(SignforgeError, match=r"must lie in \(0, 1\]"):
        resolve(ratio, (10, 100), NAMES[:2])


def test_ratio_that_adds_nothing():
    with pytest.raises(SignforgeError, match=r"10 images of class 0 \('stop'\), which already has"):
        resolve(0.1, (10, 100), NAMES[:2])


@pytest.mark.parametrize("strategy", ["auto", "minority", "not minority", {1: 3}], ids=str)
def test_empty_class(strategy):
    with pytest.raises(SignforgeError, match=r"class 1 \('yield'\) .* or that could stand in"):
        resolve(strategy, (5, 0, 9))


def test_empty_class_that_is_left_alone():
    assert resolve({0: 6}, (5, 0, 9)) == [6, 0, 9]


def test_names_that_two_classes_share_need_an_id():
    with pytest.raises(SignforgeError, match="2 classes are called 'stop'"):
        resolve({"stop": 9}, (5, 6), ("stop", "stop"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "must hold lines such as"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_bad_yaml_file(tmp_path: Path, text, message):
    file = tmp_path / "counts.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SignforgeError, match=message):
        resolve(file)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), None])
def test_bad_cap(fraction):
    with pytest.raises(SignforgeError, match=r"max_synthetic_fraction must lie in 0\.\.1"):
        resolve("auto", max_synthetic_fraction=fraction)


def test_counts_and_names_must_agree():
    with pytest.raises(SignforgeError, match="3 class counts but 2 class names"):
        resolve("auto", names=NAMES[:2])


def test_describe_class_says_a_number_once():
    assert describe_class(1, ("0", "1")) == "class 1"
    assert describe_class(1, ("a", "b")) == "class 1 ('b')"


PLAN = BalancePlan(
    decisions=(
        ClassDecision(name="stop", remedy="synthetic", count=500, real_count=64),
        ClassDecision(name="yield", remedy="oversample", count=4674, real_count=262),
        ClassDecision(name="no entry", remedy="nothing", count=4674, real_count=4674),
    )
)


def test_a_plan_is_a_strategy_and_its_file_too(tmp_path: Path):
    file = tmp_path / "plan.yaml"
    PLAN.save(file)
    for strategy in (PLAN, file, str(file)):
        assert resolve(strategy) == [500, 4674, 4674]


def test_the_cap_is_for_samples_and_not_for_repeated_real_images():
    assert resolve(PLAN, max_synthetic_fraction=0.5) == [128, 4674, 4674]
    assert resolve(PLAN, max_synthetic_fraction=0.0) == [64, 4674, 4674]


def test_a_plan_holds_for_other_real_counts_while_it_removes_nothing():
    assert resolve(PLAN, (100, 262, 9000)) == [500, 4674, 9000]
    with pytest.raises(
        SignforgeError,
        match=r"balance plan: class 0 \('stop'\) has 501 real images, a target of 500 would",
    ):
        resolve(PLAN, (501, 262, 4674))
    with pytest.raises(SignforgeError, match="has no real image that synthetic ones could be"):
        resolve(PLAN, (0, 262, 4674))


def test_a_plan_for_other_classes_is_refused():
    with pytest.raises(SignforgeError, match="Class 2 is 'no entry' in the balance plan but 'end'"):
        resolve(PLAN, names=("stop", "yield", "end"))


def test_a_plan_goes_by_class_and_not_by_name():
    names = ("0", "2", "1")
    decisions = [
        ClassDecision(name=name, remedy=remedy, count=count, real_count=5)
        for name, remedy, count in zip(
            names, ("nothing", "synthetic", "oversample"), (5, 7, 9), strict=True
        )
    ]
    assert resolve(BalancePlan(decisions=tuple(decisions)), (5, 5, 5), names) == [5, 7, 9]


def test_a_plan_up_to_other_counts_keeps_its_remedies():
    counts, real = torch.tensor([107, 262, 5000]), torch.tensor([64, 262, 5000])
    plan = PLAN.with_counts(counts, real)
    assert [d.remedy for d in plan.decisions] == ["synthetic", "nothing", "nothing"]
    assert resolve(plan, tuple(real.tolist())) == counts.tolist()
    assert BalancePlan.model_validate(plan.model_dump()) == plan


def test_a_file_is_known_by_its_content(tmp_path: Path):
    file = tmp_path / "counts.yaml"
    file.write_text("stop: 100\n")
    before = strategy_file_sha256(str(file))
    assert strategy_file_sha256(file) == before
    file.write_text("stop: 200\n")
    assert strategy_file_sha256(file) != before
    assert [strategy_file_sha256(no_file) for no_file in ("auto", 0.5, {0: 9}, PLAN)] == [None] * 4
    with pytest.raises(SignforgeError, match="nor a YAML file that can be read"):
        strategy_file_sha256(tmp_path / "none.yaml")


def test_a_date_that_is_none_is_one_sentence(tmp_path: Path):
    file = tmp_path / "counts.yaml"
    file.write_text("stop: 2020-13-45\n")
    with pytest.raises(SignforgeError, match="is not valid YAML: month must be in"):
        resolve(file)


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (("00012", "00014"), "00014: 500\n", [5, 500]),
        (("20", "30"), "30: 25\n", [5, 25]),
        (("1", "0"), "0: 25\n", [5, 25]),
        (("a", "b"), "1: 25\n", [5, 25]),
        (("yes", "no"), "no: 25\n", [5, 25]),
        (("1:30", "90"), "1:30: 25\n", [25, 5]),
    ],
)
def test_keys_of_a_file_are_names_first_as_they_are_written(tmp_path, names, text, expected):
    file = tmp_path / "counts.yaml"
    file.write_text(text)
    assert resolve(file, (5, 5), names) == expected
    key = text.rpartition(":")[0]
    assert resolve({key: max(expected)}, (5, 5), names) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stop: 70\nyield: 300\nstop: 80\n", "the key 'stop' is there twice"),
        ("stop: 0100\n", r"class 0 \('stop'\) must be a whole number of images, got '0100'"),
        ("7: 300\n", r"there is no class '7'; class ids are 0\.\.2"),
        (f"? {'9' * 5000}\n: 300\n", "there is no class '9999"),
    ],
)
def test_what_a_file_may_not_hold_is_one_sentence(tmp_path, text, message):
    file = tmp_path / "counts.yaml"
    file.write_text(text)
    with pytest.raises(SignforgeError, match=message) as error:
        resolve(file)
    assert "\n" not in str(error.value)
