"""The Hugging Face Hub as a place that generators come from and go to.

Only files named here travel, each way. ``huggingface_hub`` is imported when it is first needed;
it brings the account (``hf auth login`` or HF_TOKEN), the cache, and HF_ENDPOINT for other Hubs.
"""

import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from signforge.errors import SignforgeError

WEIGHTS_FILE, CARD_FILE, README_FILE = "generator.safetensors", "generator.json", "README.md"
LARGEST_BYTES = {CARD_FILE: 16 * 2**20, WEIGHTS_FILE: 4 * 2**30}
"""What is larger is no generator of ours, and is not downloaded."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class HubAddress:
    """A model repository, ``OWNER/NAME``, and one of its branches, tags or commits."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}{'' if self.revision is None else f'@{self.revision}'}"


def parse_repository(text: str) -> str:
    """``text`` where it is ``OWNER/NAME``; else raises SignforgeError."""
    if not _REPOSITORY.fullmatch(text) or ".." in text:
        raise SignforgeError(
            f"{text!r} is not OWNER/NAME, two names of letters, digits, '-', '_' and '.'."
        )
    return text


def parse_address(path: str | os.PathLike[str]) -> HubAddress | None:
    """The address that ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION`` is; None for a path.

    One slash will do, since pathlib leaves no more. Raises SignforgeError for a malformed one.
    """
    text = os.fspath(path).replace(os.sep, "/")
    if not text.startswith("hf:/"):
        return None
    repository, at, revision = text.removeprefix("hf:").lstrip("/").partition("@")
    well_formed = _REPOSITORY.fullmatch(repository) and ".." not in text
    if not well_formed or (at and not _REVISION.fullmatch(revision)):
        raise SignforgeError(
            f"{text!r} is no address on the Hub; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION."
        )
    return HubAddress(repository, revision or None)


def download_generator(address: HubAddress) -> Path:
    """The folder in the Hub's cache that then holds generator.json and generator.safetensors.

    Both of one commit, and nothing else of the repository. They come from strangers: read them
    with ``load_sampler``, which trusts nothing in them. Without a network, what the cache holds
    is used.

    Raises SignforgeError where the repository, the revision or a file is not there or not for
    this account, where the Hub cannot be reached, and for a file that is too large.
    """
    with _one_sentence(address):
        from huggingface_hub import hf_hub_download

        commit = address.revision
        for name in (CARD_FILE, WEIGHTS_FILE):
            found = hf_hub_download(address.repository, name, revision=commit, dry_run=True)
            if (found.file_size or 0) > LARGEST_BYTES[name]:
                raise SignforgeError(
                    f"{address}: {name} has {found.file_size:,} bytes, more than any generator of "
                    f"signforge ({LARGEST_BYTES[name]:,}); it was not downloaded."
                )
            folder = Path(hf_hub_download(address.repository, name, revision=commit)).parent
            # The cache names folders by commits: the second file is of the commit of the first,
            # whatever is pushed meanwhile.
            commit = folder.name
        return folder


def upload_files(repository: str, files: Mapping[str, bytes], *, private: bool = False) -> str:
    """One commit of exactly ``files`` ({name: content}); returns its hash.

    The repository is made if there is none; ``private`` concerns only a new one. Files of other
    names that it holds stay.

    Raises SignforgeError without an account that may write there, without a network, and where
    the Hub refuses the files.
    """
    with _one_sentence(HubAddress(repository)):
        from huggingface_hub import CommitOperationAdd, HfApi

        hub = HfApi(library_name="signforge")
        # Where the owner set another default for new repositories, that one stands.
        hub.create_repo(repository, private=private or None, exist_ok=True)
        commit = hub.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Upload a signforge generator",
        )
        return commit.oid


@contextmanager
def _one_sentence(address: HubAddress) -> Iterator[None]:
    """Whatever fails within is the network, the account or the repository: the user's to mend.

    Which classes the client raises for a broken line depends on its HTTP library, of which it
    had three so far, so all of them are caught.
    """
    try:
        import huggingface_hub.errors as hub_errors
    except ImportError:
        raise SignforgeError(
            f"{address} needs huggingface_hub; install it with pip install 'signforge[hub]'."
        ) from None
    try:
        yield
    except SignforgeError:
        raise
    except hub_errors.GatedRepoError:
        reason = "is gated; ask for access on its page, then log in with `hf auth login`"
    except hub_errors.RepositoryNotFoundError:
        reason = "does not exist, or is private; check the name, or log in with `hf auth login`"
    except hub_errors.RevisionNotFoundError:
        reason = "has no such revision; give a branch, a tag or a commit"
    except hub_errors.LocalEntryNotFoundError as error:
        said = _said(error.__cause__ or error)
        reason = (
            f"cannot be reached and is not in the cache ({said}); check the network, or give a "
            "local folder"
        )
    except hub_errors.EntryNotFoundError:
        reason = f"holds no {CARD_FILE} and {WEIGHTS_FILE}, so it is no generator of signforge"
    except hub_errors.HfHubHTTPError as error:
        status = error.response.status_code
        told = "; log in with `hf auth login` as one who may" if status in (401, 403) else ""
        reason = f"was refused by the Hub ({_said(error)}){told}"
    except ValueError as error:  # what the Hub says of a README.md, among others
        reason = f"was refused ({_said(error)})"
    except Exception as error:
        reason = f"failed ({_said(error.__cause__ or error)}); check the network"
    else:
        return
    raise SignforgeError(f"{address} {reason}.")


def _said(error: BaseException) -> str:
    """What ``error`` says, on one line and not without end."""
    text = textwrap.shorten(str(error), 300, placeholder=" ...")
    return f"{type(error).__name__}: {text}".rstrip(".: ")
