import json
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from signforge.benchmark.folder import (
    append_row,
    open_run,
    read_groups,
    read_json,
    read_rows,
    read_target,
    write_groups,
)
from signforge.config import Config
from signforge.errors import SignforgeError
from support.benchmark_runs import append_many

ROWS_EACH = 200


class Planted:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_predictions_run_no_code(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    planted = np.array([Planted(tmp_path / "ran")], dtype=object)
    np.save(tmp_path / "predictions" / "target.npy", planted)
    with pytest.raises(SignforgeError, match=r"target\.npy is not a whole \.npy file"):
        read_target(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_processes_that_add_to_one_file_lose_no_row(tmp_path: Path) -> None:
    arms = ("real", "oversample", "synthetic")
    context = get_context("spawn")
    processes = [
        context.Process(target=append_many, args=(tmp_path, arm, ROWS_EACH)) for arm in arms
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rows = [(row["arm"], row["seed"]) for row in read_rows(tmp_path)]
    assert len(rows) == len(arms) * ROWS_EACH
    for arm in arms:
        assert [seed for name, seed in rows if name == arm] == list(range(ROWS_EACH))


def test_a_line_that_a_kill_cut_off_is_replaced(tmp_path: Path) -> None:
    append_row(tmp_path, {"arm": "real", "seed": 0})
    path = tmp_path / "rows.jsonl"
    with path.open("a") as file:
        file.write('{"arm": "real", "se')
    assert [row["seed"] for row in read_rows(tmp_path)] == [0]
    append_row(tmp_path, {"arm": "real", "seed": 1})
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_whole_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"arm": "real", "seed": 0}\n{"arm": "real"}\n')
    with pytest.raises(SignforgeError, match="line 2"):
        read_rows(tmp_path)


def described(generator=None, notes=(), **more):
    splits = {name: {"fingerprint": name} for name in ("train", "val", "test")}
    return {"notes": [*notes], "splits": splits, "generator": generator, **more}


def test_a_call_without_generator_leaves_what_is_known_of_it(tmp_path: Path) -> None:
    """Another generator is refused then, too: rows of two must not share an arm."""
    generator, gate = {"fingerprint": "g"}, {"sha256": "s"}
    full = described(generator, notes=["of the data", "of the gate"], gate=gate)
    open_run(tmp_path, Config(), full, {}, "first")
    open_run(tmp_path, Config(), described(notes=["of the data"]), {}, "second")
    kept = read_json(tmp_path / "dataset.json")
    assert (kept["generator"], kept["gate"]) == (generator, gate)
    assert kept["notes"] == ["of the data", "of the gate"]
    assert read_json(tmp_path / "environment.json")["commands"] == ["first", "second"]
    with pytest.raises(SignforgeError, match="rows made with another generator"):
        open_run(tmp_path, Config(), described({"fingerprint": "other"}), {}, "third")
    open_run(tmp_path / "new", Config(), described(), {}, "first")
    open_run(tmp_path / "new", Config(), described(generator), {}, "second")
    assert read_json(tmp_path / "new" / "dataset.json")["generator"] == generator


def test_another_content_of_the_strategy_file_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path, Config(), described(sampling_strategy_sha256="a"), {}, "first")
    open_run(tmp_path, Config(), described(sampling_strategy_sha256="a"), {}, "second")
    with pytest.raises(SignforgeError, match=r"another content .* choose another folder"):
        open_run(tmp_path, Config(), described(sampling_strategy_sha256="b"), {}, "third")


def test_groups_may_have_any_numbers_and_another_file_is_refused(tmp_path: Path) -> None:
    groups = np.array([3, 2**40, 3], dtype=np.int64)
    assert read_groups(tmp_path, "val") is None
    write_groups(tmp_path, groups, "val")
    found = read_groups(tmp_path, "val")
    assert found is not None
    assert found.tolist() == groups.tolist()
    path = tmp_path / "predictions" / "val" / "groups.npy"
    np.save(path, groups.astype(np.float32))
    with pytest.raises(SignforgeError, match=r"groups\.npy must hold int64 \(N,\), got float32"):
        read_groups(tmp_path, "val")
