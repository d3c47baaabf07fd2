import pytest
import torch

from signforge.data.classes import find_class, restrict_classes
from signforge.data.images import LabeledImages, LabeledSplits
from signforge.errors import SignforgeError

NAMES = ("stop", "yield", "no entry", "7", "speed limit (20km/h)")


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("stop", 0),
        ("STOP", 0),
        (" No Entry ", 2),
        ("speed limit (20km/h)", 4),
        ("0", 0),
        ("4", 4),
        ("004", 4),
        ("7", 3),
    ],
)
def test_a_class_is_found_by_name_in_any_case_or_by_id(given, label):
    assert find_class(given, NAMES) == label


@pytest.mark.parametrize("given", ["5", "-1", "99", "9" * 5000, "", "\u00b2", "zebra crossing"])
def test_an_unknown_class_is_one_sentence_with_the_ids(given):
    with pytest.raises(SignforgeError, match=r"There is no class .*: ids are 0\.\.4"):
        find_class(given, NAMES)


def test_a_misspelt_class_names_the_closest():
    with pytest.raises(SignforgeError, match=r"did you mean 'no entry'\?"):
        find_class("No entrie", NAMES)


# --- restrict_classes ----------------------------------------------------------------------------


def numbered(counts, names=NAMES, first_group=0) -> LabeledImages:
    """counts[c] images of class c; image i is all of brightness i and of group first_group + i."""
    n = sum(counts)
    shades = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)
    return LabeledImages(
        images=shades.expand(n, 3, 8, 8).contiguous(),
        labels=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        groups=first_group + torch.arange(n),
        class_names=tuple(names),
        names=tuple(f"file {i}" for i in range(n)),
        source="made",
    )


def whole() -> LabeledSplits:
    return LabeledSplits(
        train=numbered((3, 1, 2, 4, 5)),
        test=numbered((1, 1, 2, 1, 1), first_group=100),
        notes=("a note",),
        unreadable=("a file",),
    )


@pytest.mark.parametrize("classes", [("2", "stop"), ("stop", "No Entry"), ("0", "2", "stop", "0")])
def test_only_the_named_classes_are_left_in_every_split_numbered_anew(classes):
    splits = restrict_classes(whole(), classes)
    for split, before in ((splits.train, whole().train), (splits.test, whole().test)):
        assert split.class_names == ("stop", "no entry")
        kept = ((before.labels == 0) | (before.labels == 2)).nonzero().flatten()
        assert torch.equal(split.images, before.images[kept])
        assert torch.equal(split.groups, before.groups[kept])
        assert split.labels.tolist() == [0 if label == 0 else 1 for label in before.labels[kept]]
        assert split.names == tuple(before.names[i] for i in kept.tolist())
    assert splits.val is None
    assert splits.unreadable == ("a file",)


def test_a_note_says_which_classes_they_are():
    notes = restrict_classes(whole(), ("2", "stop")).notes
    assert notes == (
        "a note",
        "Only 2 of 5 classes are used, numbered anew from 0: stop (0), no entry (2).",
    )


def test_one_class_is_enough():
    splits = restrict_classes(whole(), ("4",))
    assert splits.train.class_names == ("speed limit (20km/h)",)
    assert splits.train.class_counts.tolist() == [5]
    assert splits.test.class_counts.tolist() == [1]


def test_all_classes_are_the_same_images():
    splits = restrict_classes(whole(), NAMES)
    assert splits.train.fingerprint == whole().train.fingerprint
    assert splits.test.fingerprint == whole().test.fingerprint


def test_no_class_and_an_unknown_class_are_one_sentence():
    with pytest.raises(SignforgeError, match="names no class"):
        restrict_classes(whole(), ())
    with pytest.raises(SignforgeError, match="did you mean 'yield'"):
        restrict_classes(whole(), ("stop", "yeild"))


def test_the_case_decides_between_names_that_differ_in_it_alone():
    names = ("STOP", "stop", "Yield")
    assert [find_class(name, names) for name in ("STOP", "stop", "yield", "1")] == [0, 1, 2, 1]
    with pytest.raises(SignforgeError, match="'Stop' may be class 0 or 1, which differ in case"):
        find_class("Stop", names)


def test_a_name_that_several_classes_have_needs_an_id():
    names = ("a", "a", "b", "2")
    with pytest.raises(SignforgeError, match=r"^Classes 0 and 1 are all called 'a'; give an id\.$"):
        find_class("a", names)
    assert [find_class(name, names) for name in ("0", "1", "B", "2")] == [0, 1, 2, 3]
