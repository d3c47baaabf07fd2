from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from signforge.balance.plan import (
    BalancePlan,
    ClassDecision,
    PlanProtocol,
    RemedyEvidence,
    as_plan,
)
from signforge.errors import SignforgeError

shares = st.floats(0, 1)
gains = st.floats(-1, 1)
evidence = st.builds(
    RemedyEvidence,
    gain=gains,
    standard_error=shares,
    posterior_mean=gains,
    posterior_sd=shares,
    probability=shares,
)


@st.composite
def decisions(draw):
    real = draw(st.integers(0, 5000))
    remedy = draw(st.sampled_from(["synthetic", "oversample", "nothing"]))
    return ClassDecision(
        name=draw(st.text(st.characters(codec="utf-8"), max_size=12)),
        remedy=remedy,
        count=real if remedy == "nothing" else real + draw(st.integers(0, 5000)),
        real_count=real,
        num_groups=draw(st.integers(0, 99)),
        num_images=draw(st.integers(0, 9999)),
        acceptance=draw(st.none() | shares),
        evidence=draw(st.dictionaries(st.sampled_from(["synthetic", "oversample"]), evidence)),
    )


protocols = st.builds(
    PlanProtocol,
    seeds=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    steps=st.integers(1, 9999),
    batch_size=st.just(128),
    classifier=st.just("resnet18"),
    confidence=shares,
    sampling_strategy=st.sampled_from(["auto", {"stop": 70}]),
    max_synthetic_fraction=shares,
    refresh=shares,
    gate_tau=st.none() | shares,
    min_acceptance=shares,
)
plans = st.builds(
    BalancePlan,
    decisions=st.lists(decisions(), max_size=5).map(tuple),
    generator_fingerprint=st.none() | st.just("ab" * 32),
    train_fingerprint=st.none() | st.just("1e5"),
    protocol=st.none() | protocols,
    versions=st.just({"torch": "2.14", "timm": None}),
    command=st.sampled_from(["", "signforge plan runs/x --data 'a b'"]),
)


def make_plan(**fields) -> BalancePlan:
    return BalancePlan(
        decisions=(
            ClassDecision(name="stop", remedy="synthetic", count=90, real_count=30),
            ClassDecision(name="17", remedy="nothing", count=100, real_count=100),
            ClassDecision(name="yield", remedy="oversample", count=100, real_count=10),
        ),
        **fields,
    )


NAMES = ("stop", "17", "yield")


def named(name: str) -> BalancePlan:
    decision = ClassDecision(name=name, remedy="synthetic", count=9, real_count=3)
    return BalancePlan(decisions=(decision,))


@settings(deadline=None, max_examples=25)
@example(plan=named("\x85"))
@example(plan=named("Überholverbot \u2028 \ufeff\n\t'\"#: -"))
@given(plan=plans)
def test_a_saved_plan_is_read_back_equal(tmp_path_factory, plan):
    file = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan.save(file)
    assert BalancePlan.load(file) == plan
    assert as_plan(file) == as_plan(str(file)) == plan
    assert [path.name for path in file.parent.iterdir()] == ["plan.yaml"]


def test_counts_name_the_classes_with_a_remedy_by_id():
    # By id, since the class called "17" is class 1.
    assert make_plan().counts() == {0: 90, 2: 100}
    assert make_plan().oversampled().tolist() == [False, False, True]
    assert make_plan().oversampled().dtype == torch.bool
    assert make_plan().class_names == NAMES


def test_a_plan_written_by_hand_needs_little(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "format: signforge-balance-plan-1\n"
        "decisions:\n"
        "- {name: stop, remedy: synthetic, count: 90, real_count: 30}\n"
        "- {name: '17', remedy: nothing, count: 100, real_count: 100}\n"
        "- {name: yield, remedy: oversample, count: 100, real_count: 10}\n"
    )
    assert BalancePlan.load(file) == make_plan()


def test_check_tells_another_generator_and_refuses_other_classes():
    plan = make_plan(generator_fingerprint="ab" * 32)
    assert plan.check(NAMES, "ab" * 32) is None
    assert plan.check(NAMES) is None
    assert make_plan().check(NAMES, "ab" * 32) is None
    warning = plan.check(NAMES, "cd" * 32)
    assert warning is not None
    assert "another generator (abababababab, now cdcdcdcdcdcd)" in warning
    with pytest.raises(SignforgeError, match="Class 2 is 'yield' in the balance plan but 'ahead'"):
        plan.check(("stop", "17", "ahead"))
    with pytest.raises(SignforgeError, match="plan is for 3 classes, the data has 2"):
        plan.check(NAMES[:2])


@pytest.mark.parametrize("strategy", ["auto", "all", {"stop": 3}, 0.5, None, "no such file", "."])
def test_what_is_no_plan(strategy):
    assert as_plan(strategy) is None


def test_a_file_of_counts_is_no_plan(tmp_path: Path, monkeypatch):
    for text in ("stop: 70\n", "- 1\n", "a: [", "format: 3\n", "signforge-balance-plan-1: 2\n"):
        (tmp_path / "counts.yaml").write_text(text)
        assert as_plan(tmp_path / "counts.yaml") is None
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert as_plan(tmp_path / "binary.yaml") is None
    # A policy stays one even where a file has its name.
    monkeypatch.chdir(tmp_path)
    make_plan().save("auto")
    assert as_plan("auto") is None
    assert as_plan("./auto") == make_plan()


def broken(change):
    values = yaml.safe_load(make_plan().to_yaml())
    change(values)
    return yaml.safe_dump(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(seeds=3), "unknown key seeds"),
        (
            lambda v: v["decisions"][0].update(remdy="nothing"),
            r"unknown key decisions\.0\.remdy \(class 'stop'\); did you mean remedy",
        ),
        (lambda v: v["decisions"][2].pop("remedy"), r"decisions\.2\.remedy \(class 'yield'\) is"),
        (lambda v: v["decisions"][0].update(remedy="gan"), r"decisions\.0\.remedy .* is not valid"),
        (lambda v: v["decisions"][0].update(count=29), "count 29 is below real_count 30"),
        (lambda v: v["decisions"][1].update(count=101), "remedy nothing goes with count 100"),
        (lambda v: v["decisions"][0].update(count=90.0), r"decisions\.0\.count"),
        (lambda v: v["decisions"][0].update(count=True), r"decisions\.0\.count"),
        (lambda v: v["decisions"][0].update(acceptance=float("nan")), "acceptance"),
        (
            lambda v: v["decisions"][0].update(evidence={"nothing": {}}),
            r"decisions\.0\.evidence\.nothing",
        ),
        (lambda v: v.update(decisions="all"), "decisions is not valid"),
        (lambda v: v.pop("decisions"), "decisions is not valid"),
        (lambda v: v["decisions"].append(7), r"decisions\.3"),
        (lambda v: v.update(format="signforge-balance-plan-2"), "its format is 'signforge-balance"),
    ],
)
def test_what_is_wrong_with_a_plan_is_one_sentence(tmp_path: Path, change, message):
    file = tmp_path / "plan.yaml"
    file.write_text(broken(change))
    with pytest.raises(SignforgeError, match=message) as error:
        as_plan(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("stop: 70", "its format is None"),
        ("- 1", "its format is 'list'"),
        (b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_plan_cannot_be_loaded(tmp_path: Path, text, message):
    file = tmp_path / "plan.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SignforgeError, match=message):
        BalancePlan.load(file)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SignforgeError, match=r"Cannot read balance plan .*none\.yaml: No such"):
        BalancePlan.load(tmp_path / "none.yaml")


def test_a_date_that_is_none_is_no_other_fault(tmp_path: Path):
    file = tmp_path / "plan.yaml"
    file.write_text("format: signforge-balance-plan-1\ncommand: 2024-13-45\n")
    with pytest.raises(SignforgeError, match="is not valid YAML: month must be in"):
        BalancePlan.load(file)
