import json
from itertools import product
from pathlib import Path

import pytest

from signforge.config_file import dump_config, validate
from signforge.errors import SignforgeError
from support.tiny_runs import load_script, tiny_config


def test_every_batch_rate_and_length_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("classifier_tuning")
    values = tiny_config().model_dump(mode="json")
    values["classifier"] |= {"name": "test_resnet", "batch_size": 8}
    config = tmp_path / "tiny.yaml"
    config.write_text(dump_config(validate(values, "tiny")))
    out = tmp_path / "out"
    command = ["--data", "demo", "--config", str(config), "--out", str(out)]
    command += ["--learning-rates", "0.01,0.001", "--batch-sizes", "8,16"]
    script.main([*command, "--steps", "1,2"])
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    settings = ("steps", "batch_size", "learning_rate")
    tried = [tuple(row["classifier"][key] for key in settings) for row in rows]
    assert tried == list(product((1, 2), (8, 16), (0.01, 0.001)))
    table = (out / "table.md").read_text()
    for row, (steps, batch, rate) in zip(rows, tried, strict=True):
        assert f"| {steps} | {batch} | {rate:g} | {100 * row['macro_accuracy']:.2f} |" in table
    capsys.readouterr()
    script.main(["--out", str(out), "--tables"])
    assert capsys.readouterr().out.strip() in table
    with pytest.raises(SignforgeError, match="Give --data"):
        script.main(["--out", str(out)])
