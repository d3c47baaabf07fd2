import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.config import Config, GanConfig
from signforge.config_file import (
    dump_config,
    load_config,
    merge_overrides,
    parse_override,
    preset_names,
    validate,
)
from signforge.errors import SignforgeError
from signforge.yaml_text import parse_yaml

CONFIGS = Path(__file__).parent.parent / "configs"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


def test_without_a_file_all_is_default():
    assert load_config(None) == Config()


def test_defaults_come_back_from_yaml(tmp_path):
    assert load_config(write(tmp_path, dump_config(Config()))) == Config()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(1e-9, 1e3),
    minutes=st.none() | st.floats(0.01, 1e4),
    augment=st.lists(st.sampled_from(["color", "translation", "cutout"]), max_size=3),
    strategy=st.sampled_from(["auto", "minority"])
    | st.dictionaries(
        st.text("0123456789:.+-_") | st.text(min_size=1, max_size=8),
        st.integers(0, 10**6),
        max_size=3,
    ),
    source=st.text(st.characters(blacklist_categories=("Cs",)), max_size=20),
)
def test_any_config_comes_back_from_yaml(seed, rate, minutes, augment, strategy, source):
    config = Config.model_validate(
        {
            "gan": {
                "seed": seed,
                "generator_learning_rate": rate,
                "max_minutes": minutes,
                "augment": augment,
            },
            "balance": {"sampling_strategy": strategy},
            "data": {"source": source},
        }
    )
    assert validate(yaml.safe_load(dump_config(config)), "test") == config
    assert validate(parse_yaml(dump_config(config)), "test") == config


def test_what_a_file_leaves_out_keeps_its_default(tmp_path):
    config = load_config(write(tmp_path, "gan:\n  seed: 3\ndata:\n"))
    assert config == Config(gan=GanConfig(seed=3))
    assert load_config(write(tmp_path, "")) == Config()


def test_overrides_win_over_the_file(tmp_path):
    path = write(tmp_path, "gan: {seed: 3, z_dim: 10}\n")
    config = load_config(path, [("gan.seed", 4), ("data.resolution", 64), ("gan.seed", 5)])
    assert (config.gan.seed, config.gan.z_dim, config.data.resolution) == (5, 10, 64)


def test_merging_leaves_its_input_alone():
    values = {"gan": {"seed": 3}}
    assert merge_overrides(values, [("gan.seed", 4)], "test").gan.seed == 4
    assert values == {"gan": {"seed": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gann: {seed: 1}", "unknown key gann; did you mean gan?"),
        ("gan: {batchsize: 1}", "unknown key gan.batchsize; did you mean gan.batch_size?"),
        ("data: {resolutoin: 32}", "did you mean data.resolution?"),
        ("gan: {qqq: 1}", "unknown key gan.qqq; known keys: z_dim, "),
        ("1: 2", "unknown key 1; known keys: data, gan, "),
        ("gan: {1: 2}", "unknown key gan.1; known keys: "),
    ],
)
def test_an_unknown_key_names_the_closest(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(SignforgeError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gan: {batch_size: 1}", "gan.batch_size = 1 is not valid: "),
        ("gan: {seed: x}", "gan.seed = 'x' is not valid: "),
        ("gan: {seed: 1.5}", "gan.seed = 1.5 is not valid: "),
        ("gan: {total_kimg: .nan}", "gan.total_kimg = nan is not valid: "),
        ("gan: {augment: [color, flip]}", "gan.augment.1 = 'flip' is not valid: "),
        ("gan: {class_prior: balanced}", "gan.class_prior = 'balanced' is not valid: "),
        ("data: {resolution: 4}", "data.resolution = 4 is not valid: "),
        ("data: {val_fraction: 1}", "data.val_fraction = 1 is not valid: "),
        ("data: {imbalance_ratio: 0.5}", "data.imbalance_ratio = 0.5 is not valid: "),
        ("classifier: {warmup_fraction: 1}", "classifier.warmup_fraction = 1 is not valid: "),
        ("benchmark: {seeds: 0}", "benchmark.seeds = 0 is not valid: "),
    ],
)
def test_a_value_out_of_range_names_file_and_key(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(SignforgeError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gan: [", "is not valid YAML: "),
        ("a: b: c", "is not valid YAML: "),
        ("- gan", "expected sections such as 'gan:', got list."),
        ("gan", "expected sections such as 'gan:', got str."),
        ("gan: 3", "gan must be a section of keys, got 3."),
        ("gan: !!python/object/apply:os.system ['true']", "is not valid YAML: "),
    ],
)
def test_bad_yaml_is_one_sentence(tmp_path, text, message):
    with pytest.raises(SignforgeError) as error:
        load_config(write(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_presets(tmp_path):
    with pytest.raises(SignforgeError, match=r"absent\.yaml: No such file .*presets demo"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(SignforgeError, match=r"Cannot read config .*: Is a directory"):
        load_config(tmp_path)


def test_a_binary_file_is_one_sentence(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SignforgeError, match=r"my\.yaml is not UTF-8 text"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gan.seed=1", ("gan.seed", 1)),
        ("data.source=a=b", ("data.source", "a=b")),
        (" gan.max_minutes = null", ("gan.max_minutes", None)),
        ("gan.augment=[color]", ("gan.augment", ["color"])),
        ("data.source=", ("data.source", None)),
    ],
)
def test_an_override_is_a_key_and_a_yaml_value(text, expected):
    assert parse_override(text) == expected


def test_an_exponent_without_a_point_is_a_number_too():
    override = parse_override("gan.generator_learning_rate=1e-4")
    assert load_config(None, [override]).gan.generator_learning_rate == 1e-4


@pytest.mark.parametrize("text", ["gan.seed", "", "gan.seed=[1"])
def test_an_override_that_cannot_be_read_is_one_sentence(text):
    with pytest.raises(SignforgeError, match="--set ") as error:
        parse_override(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("gan", "write section.key=value"),
        ("gan.", "write section.key=value"),
        ("gn.seed", "--set: unknown key gn; did you mean gan?"),
        ("gan.sed", "did you mean gan.seed?"),
        ("gan.seed.x", "unknown key gan.seed.x; did you mean gan.seed?"),
    ],
)
def test_an_override_of_no_key_is_one_sentence(key, message):
    with pytest.raises(SignforgeError) as error:
        load_config(None, [(key, 1)])
    assert message in str(error.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_loads_is_complete_and_says_what_it_is_for(path):
    config = load_config(path)
    assert load_config(path.stem) == config
    text = path.read_text()
    header = text[: text.index("data:\n")]
    assert all(line.startswith("# ") for line in header.splitlines())
    command = "benchmark" if path.stem == "demo" else "train-cgan"
    assert f"#   signforge {command} --config {path.stem} " in header
    reached = re.search(r"\d %", header) is not None
    assert reached != ("Not run: no GPU was at hand." in header)
    values = yaml.safe_load(text)
    for name, section in values.items():
        assert list(section) == list(type(getattr(config, name)).model_fields), name


def test_presets_are_the_files_of_configs():
    assert preset_names() == tuple(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    assert "demo" in preset_names()


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_what_json_cannot_hold_is_refused(value):
    """It would be lost in the generator's card, after the training."""
    with pytest.raises(SignforgeError, match=r"gan\.samples_every_kimg"):
        load_config(None, [parse_override(f"gan.samples_every_kimg={value}")])


def test_a_date_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(SignforgeError, match="is not valid YAML: month must be in"):
        load_config(write(tmp_path, "data:\n  source: 2024-13-45\n"))


def test_names_of_digits_are_kept_as_they_are_written(tmp_path):
    """YAML 1.1 takes them for octal and sexagesimal numbers."""
    names = ("00014", "00019", "1:30", "07.5")
    listed = f"[{', '.join(names)}]"
    assert load_config(None, [parse_override(f"data.classes={listed}")]).data.classes == names
    assert load_config(write(tmp_path, f"data: {{classes: {listed}}}")).data.classes == names


def test_a_leading_zero_does_not_make_a_number_octal():
    config = load_config(None, [parse_override("gan.seed=010")])
    assert config.gan.seed == 10
    with pytest.raises(SignforgeError, match=r"gan\.max_minutes = '1:30' is not valid"):
        load_config(None, [parse_override("gan.max_minutes=1:30")])


def test_keys_are_the_text_that_is_written(tmp_path):
    counts = "{14: 300, 00014: 500, 1:30: 7, no: 8, 1.0: 9, '2': 10}"
    expected = {"14": 300, "00014": 500, "1:30": 7, "no": 8, "1.0": 9, "2": 10}
    override = parse_override(f"balance.sampling_strategy={counts}")
    assert load_config(None, [override]).balance.sampling_strategy == expected
    path = write(tmp_path, f"balance: {{sampling_strategy: {counts}}}")
    assert load_config(path).balance.sampling_strategy == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("gan: {seed: 1}\ndata: {resolution: 32}\ngan: {z_dim: 10}\n", "gan"),
        ("gan: {seed: 1, z_dim: 10, 'seed': 2}", "seed"),
        ("balance: {sampling_strategy: {14: 300, '14': 400}}", "14"),
    ],
)
def test_a_key_that_is_there_twice_is_named(tmp_path, text, key):
    with pytest.raises(SignforgeError) as error:
        load_config(write(tmp_path, text))
    assert f"is not valid YAML: the key '{key}' is there twice, keep one" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_nested_too_deeply_is_one_sentence(tmp_path):
    with pytest.raises(SignforgeError, match="is not valid YAML: it is nested too deeply"):
        load_config(write(tmp_path, "[" * 5000))
