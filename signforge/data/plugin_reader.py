"""read_plugin: splits that a reader plugin makes, checked like those of our own readers."""

from collections.abc import Mapping

from signforge.data.images import LabeledImages, LabeledSplits
from signforge.errors import SignforgeError
from signforge.plugins import PluginAddress, make_from_plugin

_NAMES = ("train", "val", "test")


def read_plugin(address: PluginAddress, *, resolution: int) -> LabeledSplits:
    """What the plugin of the entry-point group ``signforge.readers`` reads.

    Raises SignforgeError as ``make_from_plugin`` and ``checked_splits`` do, and where the images
    are not of ``resolution``: a reader is not told what the config asks for.
    """
    splits = checked_splits(make_from_plugin("reader", address), f"The reader '{address.name}'")
    found = splits.train.resolution
    if found != resolution:
        raise SignforgeError(
            f"The reader '{address.name}' gives {found}x{found} images, the config asks for "
            f"{resolution}x{resolution}; set data.resolution={found}."
        )
    return splits


def checked_splits(read: object, reader: str) -> LabeledSplits:
    """``read`` as LabeledSplits: one already, or a mapping with train and perhaps val and test.

    Raises SignforgeError, which opens with ``reader``, where it is neither, where a split is no
    LabeledImages, holds no image, or has other classes or another size than train.
    """
    if isinstance(read, LabeledSplits):
        named: Mapping[str, object] = {name: getattr(read, name) for name in _NAMES}
    elif isinstance(read, Mapping):
        named = read
    else:
        raise SignforgeError(
            f"{reader} returns a {type(read).__name__}; it must return LabeledSplits or a dict of "
            "LabeledImages with the keys train, val and test."
        )
    unknown = [key for key in named if key not in _NAMES]
    if unknown:
        raise SignforgeError(
            f"{reader} returns a split called {unknown[0]!r}; only train, val and test are known."
        )
    found: dict[str, LabeledImages] = {}
    for name, split in named.items():
        if split is None and name != "train":
            continue
        if not isinstance(split, LabeledImages):
            raise SignforgeError(
                f"{reader} returns a {type(split).__name__} as {name}; it must be LabeledImages."
            )
        if not len(split):
            raise SignforgeError(f"{reader} returns no images in {name}; leave such a split out.")
        found[name] = split
    if "train" not in found:
        raise SignforgeError(f"{reader} returns no split called train; give at least that one.")
    train = found["train"]
    for name, images in found.items():
        if (images.class_names, images.resolution) != (train.class_names, train.resolution):
            raise SignforgeError(
                f"{reader} gives {name} other class names or another image size than train; they "
                "must be the same."
            )
    if isinstance(read, LabeledSplits):
        return read
    return LabeledSplits(train, found.get("val"), found.get("test"))
