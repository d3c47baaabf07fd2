"""From a config to splits that can be trained on: read, refuse what is broken, pick the classes,
cut by group."""

from dataclasses import replace

from signforge.config import DataConfig
from signforge.data.classes import restrict_classes
from signforge.data.gtsrb import download_gtsrb
from signforge.data.load import load_splits
from signforge.data.splits import PreparedSplits, prepare_splits
from signforge.errors import SignforgeError
from signforge.files import expanded
from signforge.plugins import parse_plugin_address
from signforge.progress import Track, no_progress


def load_prepared_splits(config: DataConfig, *, track: Track = no_progress) -> PreparedSplits:
    """Train, val and test of ``config.source``, with the notes of the reader and of the cuts.

    Of ``config.classes`` alone, where it is set.

    Raises SignforgeError for a class that is not there, and where a file cannot be read: a class
    that silently lost images would falsify every count that follows.
    """
    splits = load_splits(config, track=track)
    if splits.unreadable:
        raise SignforgeError(unreadable_sentence(splits.unreadable))
    if config.classes is not None:
        splits = restrict_classes(splits, config.classes)
    prepared = prepare_splits(config, splits)
    return replace(prepared, notes=(*splits.notes, *prepared.notes))


def unreadable_sentence(unreadable: tuple[str, ...]) -> str:
    """The first unreadable file, what to do, and how many more there are."""
    first, more = unreadable[0], len(unreadable) - 1
    others = f"; {more} more files are unreadable, see `signforge data inspect`." if more else "."
    return first.rstrip(".") + others


def download_if_asked(config: DataConfig, download: bool) -> DataConfig:
    """With ``download``, fetches GTSRB by torchvision to where ``config.source`` points."""
    if not download:
        return config
    if config.source == "demo" or parse_plugin_address(config.source):
        raise SignforgeError(
            f"--download needs a folder to download GTSRB to, not {config.source!r}."
        )
    return config.model_copy(update={"source": str(download_gtsrb(expanded(config.source)))})
