import pytest
import yaml

from signforge.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-3", -3), ("0.5", 0.5), ("12", 12), ("1.0e-4", 1e-4), ("0x10", 16), ("'7'", "7")],
)
def test_numbers_are_numbers(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_a_number_that_is_a_key_elsewhere_is_still_a_number():
    assert parse_yaml("[&a 14, {*a : 1}]") == [14, {"14": 1}]


def test_merged_keys_may_be_written_again():
    assert parse_yaml("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}") == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 3, "l": 2},
    }


def test_class_names_of_digits_are_text():
    text = "{00014: 00019, 14: [1:30, 07.5, 14]}"
    assert parse_yaml(text) == {"00014": "00019", "14": ["1:30", "07.5", 14]}


@pytest.mark.parametrize("text", ["{a: 1, 'a': 2}", "[" * 5000, "2024-13-45", "{a"])
def test_what_is_no_value_raises_yamls_own_error(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
