"""The Hub's real client against a stand-in server: what travels, what is refused, what is said."""

import builtins
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import signforge
from signforge.errors import SignforgeError
from signforge.gan import hub as hub_module
from signforge.gan.hub import HubAddress, parse_address, parse_repository, upload_files
from signforge.gan.sampler import load_sampler, save_sampler
from support.hub_server import OWNER, TOKEN, Hub, running_hub

LABELS = torch.tensor([0, 1, 2, 2])
NAME = f"{OWNER}/signs"
SOURCE = Path(signforge.__file__).parent

# huggingface_hub's own upload to git LFS uses an argument of its HTTP library that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def files(make_sampler, tmp_path):
    """The two files of a generator."""
    return generator_files(make_sampler(), tmp_path / "run")


def generator_files(sampler, run: Path) -> dict[str, bytes]:
    save_sampler(run, sampler.generator, sampler.card)
    return {path.name: path.read_bytes() for path in run.iterdir()}


def sentence_of(address: str) -> str:
    with pytest.raises(SignforgeError) as error:
        load_sampler(address, "cpu")
    text = str(error.value)
    assert "\n" not in text
    return text


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://me/signs", "me/signs", None),
        ("hf://me/signs@v1.0", "me/signs", "v1.0"),
        ("hf://a-b/c_d.e@refs/pr/3", "a-b/c_d.e", "refs/pr/3"),
        (Path("hf://me/signs@main"), "me/signs", "main"),
    ],
)
def test_addresses(text, repository, revision):
    address = parse_address(text)
    assert address == HubAddress(repository, revision)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("path", ["runs/gan", "/abs/olute", Path("hf"), "hf", "hfx/me/signs"])
def test_other_paths_are_paths(path):
    assert parse_address(path) is None


@pytest.mark.parametrize(
    "text",
    [
        *("hf://", "hf://me", "hf://me/", "hf:///signs", "hf://me/a/b", "hf://me/signs@"),
        *("hf://me/signs@a b", "hf://me/../../etc", "hf://-x/signs", "hf://me/signs@../x"),
        *("hf://me/signs?x=1", "hf://me/signs\n", "hf://http://x/y", "hf://me/signs@-x"),
    ],
)
def test_a_malformed_address_is_one_sentence(text):
    with pytest.raises(SignforgeError, match="is no address on the Hub; write hf://OWNER/NAME"):
        parse_address(text)


@pytest.mark.parametrize("text", ["signs", "me/", "me/a/b", "me/a..b", "me/si gns", "hf://me/x"])
def test_a_malformed_repository_is_one_sentence(text):
    with pytest.raises(SignforgeError, match="is not OWNER/NAME"):
        parse_repository(text)


# --- down ----------------------------------------------------------------------------------------


def test_a_generator_comes_down_as_it_went_up(hub: Hub, files, make_sampler):
    commit = upload_files(NAME, files)
    assert hub.repositories[NAME].head == commit
    assert hub.repositories[NAME].commits == {commit: files}
    loaded = load_sampler(f"hf://{NAME}", "cpu")
    assert torch.equal(loaded.sample(LABELS, 1), make_sampler().sample(LABELS, 1))


def test_a_path_object_is_an_address_too(hub: Hub, files):
    hub.add(NAME, files)
    assert load_sampler(Path(f"hf://{NAME}"), "cpu").num_classes == 3


def test_nothing_but_the_two_files_is_fetched(hub: Hub, files, tmp_path):
    more = {"README.md": b"# x", "evil.py": b"raise", "pytorch_model.bin": b"\x80", "a.json": b"{}"}
    hub.add(NAME, {**files, **more})
    load_sampler(f"hf://{NAME}", "cpu")
    assert hub.served() == set(files)
    kept = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert kept == set(files)


def test_a_revision_is_pinned(hub: Hub, files, make_sampler, tmp_path):
    first = hub.add(NAME, files)
    newer = generator_files(make_sampler(seed=1), tmp_path / "newer")
    second = hub.repositories[NAME].commit(newer)
    fingerprints = {
        revision: load_sampler(f"hf://{NAME}{revision}", "cpu").fingerprint
        for revision in ("", "@main", f"@{first}", f"@{second}")
    }
    assert fingerprints[""] == fingerprints["@main"] == fingerprints[f"@{second}"]
    assert fingerprints[f"@{first}"] != fingerprints[f"@{second}"]


def test_both_files_are_of_one_commit_whatever_is_pushed_between(
    hub: Hub, files, make_sampler, tmp_path, monkeypatch
):
    hub.add(NAME, files)
    newer = generator_files(make_sampler(seed=1), tmp_path / "newer")
    import huggingface_hub

    real = huggingface_hub.hf_hub_download

    def download(repository, name, **options):
        found = real(repository, name, **options)
        if name == "generator.json" and not options.get("dry_run"):
            hub.repositories[NAME].commit(newer)
        return found

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = load_sampler(f"hf://{NAME}", "cpu")
    assert torch.equal(loaded.sample(LABELS, 1), make_sampler().sample(LABELS, 1))


def test_the_cache_serves_without_a_network(hub: Hub, files, monkeypatch):
    hub.add(NAME, files)
    load_sampler(f"hf://{NAME}", "cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_sampler(f"hf://{NAME}", "cpu").num_classes == 3


def test_tampered_weights_are_refused(hub: Hub, files):
    weights = bytearray(files["generator.safetensors"])
    weights[-1] ^= 1
    hub.add(NAME, {**files, "generator.safetensors": bytes(weights)})
    assert "SHA-256 differs" in sentence_of(f"hf://{NAME}")


def test_a_card_with_another_key_is_refused(hub: Hub, files):
    card = files["generator.json"].replace(b'"z_dim": 8', b'"z_dim": 8, "hook": "os.system"')
    hub.add(NAME, {**files, "generator.json": card})
    assert "Extra inputs are not permitted" in sentence_of(f"hf://{NAME}")


def peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@pytest.mark.parametrize(
    ("written", "giant"),
    [
        (b'"base_channels": 4', b'"base_channels": 1000000'),
        (b'"base_channels": 4', b'"base_channels": ' + b"9" * 30),
        (b'"z_dim": 8', b'"z_dim": ' + b"9" * 12),
        (b'"resolution": 8', b'"resolution": %d' % 2**40),
        (b'"resolution": 8', b'"resolution": %d' % 2**4000),
    ],
)
def test_a_card_of_a_giant_is_refused_without_its_memory(hub: Hub, files, written, giant):
    card = files["generator.json"].replace(written, giant)
    assert card != files["generator.json"]
    hub.add(NAME, {**files, "generator.json": card})
    peak = peak_memory_bytes()
    assert "does not fit generator.json" in sentence_of(f"hf://{NAME}")
    assert peak_memory_bytes() - peak < 2**28


def test_a_file_that_is_too_large_is_not_fetched(hub: Hub, files):
    hub.add(NAME, files)
    hub.claimed_bytes = 2**40
    assert "1,099,511,627,776 bytes, more than any generator" in sentence_of(f"hf://{NAME}")
    assert not any(path.startswith("/objects/") for _, path in hub.requests)


# --- what may go wrong ---------------------------------------------------------------------------


def test_what_is_not_there_is_named(hub: Hub, files):
    hub.add(NAME, files)
    hub.add(f"{OWNER}/other", {"README.md": b"# x"})
    hub.add(f"{OWNER}/half", {"generator.json": files["generator.json"]})
    hub.add(f"{OWNER}/gated", files, gated=True)
    assert "hf://someone/no does not exist, or is private" in sentence_of("hf://someone/no")
    assert "hf://someone/signs@v9 has no such revision" in sentence_of(f"hf://{NAME}@v9")
    for name in ("other", "half"):
        assert f"hf://someone/{name} holds no generator.json" in sentence_of(f"hf://{OWNER}/{name}")
    assert "hf://someone/gated is gated; ask for access" in sentence_of(f"hf://{OWNER}/gated")


def test_a_private_repository_needs_the_account(hub: Hub, files, monkeypatch):
    upload_files(NAME, files, private=True)
    assert hub.repositories[NAME].private
    with monkeypatch.context() as logged_out:
        logged_out.delenv("HF_TOKEN")
        assert "is private; check the name, or log in" in sentence_of(f"hf://{NAME}")
    assert load_sampler(f"hf://{NAME}", "cpu").num_classes == 3


@pytest.mark.usefixtures("hub")
def test_no_network_is_one_sentence(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = sentence_of(f"hf://{NAME}")
    assert "cannot be reached and is not in the cache" in said
    with pytest.raises(SignforgeError, match="offline mode"):
        upload_files(NAME, {"README.md": b"x"})


def test_a_dead_server_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    dead = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    template = dead + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert "cannot be reached and is not in the cache" in sentence_of(f"hf://{NAME}")
    with pytest.raises(SignforgeError, match=r"signs failed \(Connect.*; check the network"):
        upload_files(NAME, {"README.md": b"x"})


def test_without_the_extra_it_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install 'signforge[hub]'" in sentence_of(f"hf://{NAME}")


def test_only_functions_import_it():
    places = [
        line
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith(("import huggingface_hub", "from huggingface_hub"))
    ]
    assert len(places) >= 3
    assert [line for line in places if not line.startswith("    ")] == []


# --- up ------------------------------------------------------------------------------------------


def test_one_commit_of_the_files_given_and_what_was_there_stays(hub: Hub, files):
    first = hub.add(NAME, {"NOTES.md": b"mine"})
    commit = upload_files(NAME, files)
    assert set(hub.repositories[NAME].commits) == {first, commit}
    assert hub.repositories[NAME].commits[commit] == {"NOTES.md": b"mine", **files}


@pytest.mark.parametrize(
    ("repository", "token", "said"),
    [
        (NAME, "hf_wrong", "refused by the Hub .*; log in with `hf auth login`|is private"),
        ("stranger/signs", TOKEN, "refused by the Hub .*; log in with `hf auth login`"),
    ],
)
def test_who_may_not_write_is_told(hub: Hub, monkeypatch, repository, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SignforgeError, match=said) as error:
        upload_files(repository, {"README.md": b"x"})
    assert "\n" not in str(error.value)
    assert hub.repositories == {}


@pytest.mark.usefixtures("hub")
def test_the_hubs_word_on_a_licence_is_passed_on():
    with pytest.raises(SignforgeError, match='"license" must be one of') as error:
        upload_files(NAME, {"README.md": b"---\nlicense: unheard-of\n---\n"})
    assert "\n" not in str(error.value)


def test_the_largest_sizes_have_the_files_names():
    assert set(hub_module.LARGEST_BYTES) == {"generator.json", "generator.safetensors"}


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_in_a_process_of_its_own_by_environment_variables_alone(hub: Hub, tmp_path):
    """Nothing patched: HF_ENDPOINT, HF_HOME and HF_TOKEN as a user sets them."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
    }
    code = (
        "import sys, signforge\n"
        f"signforge.load_sampler({str(tmp_path / 'run')!r}, 'cpu')\n"
        "assert 'huggingface_hub' not in sys.modules, 'loaded for a local folder'\n"
        "from signforge.cli import app\n"
        f"push = ['push', {str(tmp_path / 'run')!r}, '--to', {NAME!r}, '--license', 'cc-by-4.0']\n"
        "app(push, standalone_mode=False)\n"
        f"print(signforge.load_sampler('hf://{NAME}', 'cpu').fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    repository = hub.repositories[NAME]
    names = {"generator.json", "generator.safetensors", "README.md"}
    assert set(repository.commits[repository.head]) == names
    said, fingerprint = done.stdout.splitlines()
    assert f"load_sampler('hf://{NAME}@{repository.head}')" in said
    assert fingerprint == load_sampler(tmp_path / "run", "cpu").fingerprint
