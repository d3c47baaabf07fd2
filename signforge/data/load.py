"""load_splits: from what a config calls its source to decoded, labelled images.

Looks at what the path holds to choose the reader, and keeps decoded images in the cache.
"""

from dataclasses import replace
from pathlib import Path

from signforge.config import DataConfig
from signforge.data.archive import FileTree, FolderTree, ZipTree
from signforge.data.cache import (
    CacheKey,
    default_cache_folder,
    make_key,
    open_cached,
    write_cached,
)
from signforge.data.folders import list_class_folders, read_npz
from signforge.data.gtsrb import find_zips, list_gtsrb
from signforge.data.images import LabeledSplits
from signforge.data.kaggle import list_kaggle
from signforge.data.listing import decode_listing
from signforge.data.pickles import PICKLE_SUFFIXES, find_pickles, read_pickles
from signforge.data.plugin_reader import read_plugin
from signforge.errors import SignforgeError
from signforge.files import expanded
from signforge.plugins import parse_plugin_address
from signforge.progress import Track, no_progress

ACCEPTED = (
    "GTSRB's official zips or their extracted tree, torchvision's or Kaggle's GTSRB, train.p "
    "pickles, a folder with one folder of images a class (with train/ and test/ or val/ or not), "
    "a zip of one of these, or an .npz with images and labels"
)
"""What a source may be, for messages and help."""


def load_splits(
    config: DataConfig, *, cache_dir: Path | None = None, track: Track = no_progress
) -> LabeledSplits:
    """The splits of ``config.source`` as it gives them, at ``config.resolution``; nothing is cut.

    cache_dir: where decoded images are kept; default ``default_cache_folder()``. A folder that
        cannot be written, or is not known, costs time, not the run: a note says so.
    A source ``plugin:NAME:ARGUMENT`` is read by the reader plugin of that name, and not cached.
    Image files that cannot be decoded are named in ``unreadable`` (such a load is not cached).

    Raises SignforgeError where the source does not exist, holds nothing that is recognised, or
    contradicts itself, and for ``config.crop`` "roi" where there are no regions.
    """
    cache_dir = default_cache_folder() if cache_dir is None else cache_dir
    address = parse_plugin_address(config.source)
    if config.crop == "roi" and (config.source == "demo" or address is not None):
        raise SignforgeError(
            f"{config.source} has no regions of interest to crop to; use crop full."
        )
    if config.source == "demo":
        key = make_key(
            {"source": "demo", "scale": config.demo_scale, "resolution": config.resolution}, []
        )
        cached = _open(cache_dir, key, "demo")
        return cached or _keep(_draw_demo(config, track), cache_dir, key, "demo")
    if address is not None:
        return read_plugin(address, resolution=config.resolution)
    path = expanded(config.source)
    if not path.exists():
        raise SignforgeError(
            f"{config.source} does not exist; give 'demo' or the path of a data set."
        )
    files = _container_files(path)
    tree = None if files else FolderTree(path)
    key = make_key(
        {
            "source": str(path.resolve()),
            "resolution": config.resolution,
            "crop": config.crop,
        },
        tree.stamps() if tree is not None else [_stamp(file) for file in files],
    )
    cached = _open(cache_dir, key, str(path))
    if cached is not None:
        return cached
    if tree is not None:
        return _keep(_read_tree(tree, config, track), cache_dir, key, str(path))
    if files[0].suffix.lower() == ".zip":
        with ZipTree(files, source=str(path)) as archives:
            splits = _read_tree(archives, config, track)
    elif files[0].suffix.lower() == ".npz":
        splits = read_npz(files[0], resolution=config.resolution, crop=config.crop, track=track)
    else:
        splits = read_pickles(path, resolution=config.resolution, crop=config.crop, track=track)
    return _keep(splits, cache_dir, key, str(path))


def _container_files(path: Path) -> list[Path]:
    """The zips, pickles or npz file that ``path`` stands for; empty if it is a plain folder."""
    if path.is_dir():
        return find_zips(path) or list(find_pickles(path).values())
    if path.suffix.lower() not in {".zip", ".npz", *PICKLE_SUFFIXES}:
        raise SignforgeError(f"{path} is not a data set; accepted: {ACCEPTED}.")
    return [path]


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def _read_tree(tree: FileTree, config: DataConfig, track: Track) -> LabeledSplits:
    if not tree.names() and not tree.folders():
        raise SignforgeError(f"{tree.source} is empty; accepted: {ACCEPTED}.")
    listing = list_gtsrb(tree) or list_kaggle(tree) or list_class_folders(tree)
    if listing is None:
        raise SignforgeError(f"{tree.source} holds no data set; accepted: {ACCEPTED}.")
    return decode_listing(
        tree, listing, resolution=config.resolution, crop=config.crop, track=track
    )


def _draw_demo(config: DataConfig, track: Track) -> LabeledSplits:
    from signforge.data.demo import draw_demo

    return draw_demo(scale=config.demo_scale, resolution=config.resolution, track=track)


def _open(cache_dir: Path | None, key: CacheKey, source: str) -> LabeledSplits | None:
    return None if cache_dir is None else open_cached(cache_dir, key, source)


def _keep(
    splits: LabeledSplits, cache_dir: Path | None, key: CacheKey, source: str
) -> LabeledSplits:
    if splits.unreadable:
        return splits
    if cache_dir is None:
        reason = "there is no home folder to keep them in; set SIGNFORGE_CACHE to a folder"
        return _with_note(splits, f"Decoded images are not kept: {reason}.")
    try:
        write_cached(cache_dir, key, splits, source)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        return _with_note(
            splits, f"Decoded images are not kept: {cache_dir} cannot be written ({reason})."
        )
    return splits


def _with_note(splits: LabeledSplits, note: str) -> LabeledSplits:
    return replace(splits, notes=(*splits.notes, note))
