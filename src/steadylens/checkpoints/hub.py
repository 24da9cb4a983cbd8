"""Nets as folders that model hubs understand: weights, settings and model card; local folders first.

A folder holds `model.safetensors` (as `save_model` writes it), `config.json` (the arguments of the net's
constructor) and `README.md` (the card). `PyTorchModelHubMixin` of huggingface_hub reads such a folder, too;
that library is only needed to download and to upload.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.checkpoints.card import card_of
from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.checkpoints.info import TrainingInfo
from steadylens.checkpoints.loading import LoadedNet, load_net
from steadylens.errors import CheckpointError, InputError, MissingExtraError, SettingError, StorageError
from steadylens.files import replacing
from steadylens.nets.architecture import describe

WEIGHTS = "model.safetensors"


def save_pretrained(
    net: nn.Module | str | Path,
    folder: str | Path,
    *,
    about: dict[str, Any] | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> Path:
    """Writes a net, its settings and its model card into a folder.

    Args:
        net: The name of a packaged net or the path of a .safetensors file that `save_model` wrote, with all
            that is known of it; or a net of this package or a `FusedClassifier` of such, of which only
            `about` tells anything.
        folder: The folder; it is made if it is missing, and files of the same names in it are replaced.
        about: Plain data about where the weights come from, as `load_model` returns them; by default what
            the file of a net given by name or path tells, else nothing.
        name: The name in the card, for instance OWNER/NAME; by default that of the folder.
        licence: The licence of the weights, for instance MIT; by default what `about` states, if anything.

    Returns:
        The folder.

    Raises:
        SettingError: If there is no net of that name, or it is of a kind that cannot be saved.
        CheckpointError: If `about` has not the form in which this package writes it, or the net's file cannot
            be read.
        StorageError: If the files cannot be written.
    """
    place = Path(folder)
    module, told = _with_about(net, about)
    known = told | ({} if licence is None else {"licence": licence})
    title = name or place.resolve().name
    card = card_of(LoadedNet(name=title, module=module, info=TrainingInfo.of_plain(known, name=title)))
    texts = {
        "config.json": json.dumps(describe(module), indent=2) + "\n",
        "README.md": card.markdown(loader="from_pretrained"),
    }
    save_model(place / WEIGHTS, module, about=known)
    for file, text in texts.items():
        with replacing(place / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return place


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
) -> nn.Module:
    """Returns the net that `save_pretrained` or `push_to_hub` wrote.

    Args:
        source: A folder, or the name of a repository on the hub, OWNER/NAME. A folder is tried first.
        revision: Branch, tag or commit of the repository; by default its main branch.
        token: Token for a private repository; by default that of `hf auth login`.
        cache: Where downloads are kept; by default the hub's usual cache folder.
        offline: Whether only what was downloaded before is used.

    Returns:
        The net in eval mode, float32, on the CPU.

    Raises:
        SettingError: If `source` is neither a folder nor the name of a repository.
        CheckpointError: If the repository cannot be reached, or the file is missing or damaged.
        MissingExtraError: If a download needs huggingface_hub and it is not installed.
    """
    if isinstance(source, Path) or Path(source).is_dir():
        return load_model(Path(source) / WEIGHTS)[0]
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    with _explained(source, CheckpointError, "downloaded from"):
        path = hf_hub_download(
            source, WEIGHTS, revision=revision, token=token, cache_dir=cache, local_files_only=offline
        )
    return load_model(Path(path))[0]


def push_to_hub(
    net: nn.Module | str | Path,
    repository: str,
    *,
    about: dict[str, Any] | None = None,
    licence: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a net of steadylens",
) -> str:
    """Uploads a net, its settings and its model card to a repository of the hub, which is made if missing.

    Args:
        net: The net, by name, path or itself, as for `save_pretrained`.
        repository: Name of the repository, OWNER/NAME.
        about: Plain data about where the weights come from, likewise.
        licence: The licence of the weights, likewise.
        private: Whether a new repository is private; by default the owner's own setting counts.
        token: Token with the right to write; by default that of `hf auth login`.
        message: Message of the commit.

    Returns:
        The address of the commit.

    Raises:
        SettingError: If the net cannot be saved or `repository` is no name of a repository.
        CheckpointError: If the net's file or `about` cannot be read.
        StorageError: If the hub cannot be reached or refuses the upload.
        MissingExtraError: If huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(net, folder, about=about, name=repository, licence=licence)
        with _explained(repository, StorageError, "uploaded to"):
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(commit.commit_url)


def _with_about(
    net: nn.Module | str | Path, about: dict[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    if isinstance(net, nn.Module):
        return net, about or {}
    loaded = load_net(net)
    return loaded.module, dict(loaded.info.plain) if about is None else about


@contextmanager
def _explained(repository: str, kind: type[InputError | StorageError], done: str) -> Iterator[None]:
    """Turns what the hub's client raises into one sentence each."""
    from huggingface_hub import errors  # noqa: PLC0415 - an extra

    said = f"the net cannot be {done} the repository {repository!r}"
    # The client raises what its HTTP library raises; which one that is depends on its version.
    failures: tuple[type[Exception], ...] = tuple(
        base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception)
    )
    try:
        yield
    except errors.HFValidationError as error:
        raise SettingError(
            f"{repository!r} is neither a folder here nor the name of a repository, OWNER/NAME"
        ) from error
    except errors.RepositoryNotFoundError as error:
        way_out = "check the name; for a private one, give a token or run: hf auth login"
        raise kind(f"{said}: there is none of that name, or it is private; {way_out}") from error
    except errors.RevisionNotFoundError as error:
        raise kind(f"{said}: it has no such revision; leave the revision out") from error
    except errors.LocalEntryNotFoundError as error:
        reason = "the hub cannot be reached, nothing was downloaded before, and no such folder is here"
        raise kind(f"{said}: {reason}; check the connection") from error
    except errors.EntryNotFoundError as error:
        raise kind(f"{said}: it holds no {WEIGHTS}, so it was not made by steadylens") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        allowed = "give a token with the right to do this, or run: hf auth login"
        way_out = allowed if code in {401, 403} else "try again later"
        raise kind(f"{said}: the hub answered {code}; {way_out}") from error
    except failures as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{said}: {reason}; check the connection") from error
