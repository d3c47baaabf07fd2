import json
import shutil
import subprocess
import sys

import pytest
import torch

from signforge.environment import commit_of, describe_environment, hardware_line
from signforge.errors import SignforgeError


def test_the_record_is_json_and_names_versions_and_hardware():
    environment = json.loads(json.dumps(describe_environment()))
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["versions"]["python"] == sys.version.split()[0]
    assert {"signforge", "torchvision", "timm", "torchmetrics"} <= set(environment["versions"])
    assert environment["hardware"]["cores"] >= 1
    assert f"{environment['hardware']['cores']} cores" in hardware_line(environment)


def test_no_gpu_is_named_that_is_not_used():
    assert describe_environment("cpu")["hardware"]["gpu"] is None
    with pytest.raises(SignforgeError, match="'cuda:99' was asked for"):
        describe_environment("cuda:99")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path):
    def git(*arguments, cwd=tmp_path):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=cwd, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    package = tmp_path / "signforge"
    package.mkdir()
    (package / "__init__.py").touch()
    assert commit_of(package) == (None, None)
    git("init")
    # A repository that merely surrounds the package says nothing about its code.
    assert commit_of(package) == (None, None)
    git("add", ".")
    git("commit", "-m", "c")
    head = git("rev-parse", "HEAD")
    assert commit_of(package) == (head, False)
    (package / "__init__.py").write_text("# changed\n")
    assert commit_of(package) == (head, True)
    inner = package / "vendored" / "signforge"
    inner.mkdir(parents=True)
    (inner / "__init__.py").touch()
    git("add", ".")
    assert commit_of(inner) == (None, None)
