"""Share nets: save them to folders, load them again, exchange them with the Hugging Face Hub.

A folder holds `model.safetensors` (written by `save_model`), `config.json` (the arguments of the net's
constructor) and `README.md` (the model card). Folders can be saved and loaded without huggingface_hub; the
extra `hub` adds the card's header, uploads and downloads.

`PyTorchModelHubMixin` of huggingface_hub reads these folders but cannot replace this module. It has to be a
base class of each net, and the caller has to know that class. It checks no checksum, does not keep the data
about the training, accepts files in which weights are missing, does not replace an older README.md, and
loads a pickle if there is no safetensors file.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.checkpoints.card import Card, card_of
from steadylens.checkpoints.checkpoint import SUFFIX, TrainingInfo, load_model, save_model
from steadylens.checkpoints.loading import LoadedNet, load_net
from steadylens.errors import CheckpointError, MissingExtraError, SettingError, StorageError, reason_of
from steadylens.files import replacing
from steadylens.nets.architecture import describe
from steadylens.nets.facts import CLASSIFYING
from steadylens.records import Accuracy, Restoring
from steadylens.report.tables import select

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
        net: The name of a packaged net or the path of a .safetensors file written by `save_model`; the
            file says how the net was trained. Or a net of this package or a `FusedClassifier` of such nets;
            then only `about` says how it was trained.
        folder: The folder. It is made if it is missing; files of the same names are replaced.
        about: How the net was trained, in the form that `load_model` returns. By default what the file
            says, if `net` is a name or a path.
        name: The name in the card, for instance OWNER/NAME. By default the folder's name.
        licence: The licence of the weights, for instance MIT. By default the one in `about`, if any.

    Returns:
        The folder.

    Raises:
        SettingError: If no net has that name, or this type of net cannot be saved.
        CheckpointError: If `about` does not have the form that this package writes, or the file of the net
            cannot be read.
        StorageError: If the files cannot be written.
    """
    place = Path(folder)
    loaded = LoadedNet(name="", module=net) if isinstance(net, nn.Module) else load_net(net)
    if about is None:
        about = dict(loaded.info.plain)
    about = about | ({} if licence is None else {"licence": licence})
    title, module = name or place.resolve().name, loaded.module
    info = TrainingInfo.of_plain(about, name=title)
    card = card_of(LoadedNet(name=title, module=module, info=info), given=title)
    texts = {"config.json": json.dumps(describe(module), indent=2) + "\n", "README.md": readme_of(card)}
    save_model(place / WEIGHTS, module, about=about)
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
    """Returns a net that `save_pretrained` or `push_to_hub` wrote.

    Args:
        source: A folder, or the name of a repository on the hub, OWNER/NAME. If there is a folder of that
            name, it is used.
        revision: Branch, tag or commit of the repository; by default its main branch.
        token: Token for a private repository; by default the one saved by `hf auth login`.
        cache: Folder for downloads; by default the hub's own cache folder.
        offline: Use only what was downloaded before.

    Returns:
        The net in eval mode, float32, on the CPU.

    Raises:
        SettingError: If `source` is neither a folder nor a possible name of a repository, or it looks like
            the path of a folder that does not exist. With a `revision` it is always a repository.
        CheckpointError: If the download fails, or the file is missing or damaged.
        MissingExtraError: If a download needs huggingface_hub and it is not installed.
    """
    if isinstance(source, Path) or Path(source).is_dir():
        return load_model(Path(source) / WEIGHTS)[0]
    if revision is None:
        _refuse_paths(source)
    with _hub_errors(source, "download the net from", CheckpointError):
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - an extra

        path = hf_hub_download(
            source,
            WEIGHTS,
            revision=revision,
            token=token,
            cache_dir=cache,
            local_files_only=offline or not _answers(source, revision=revision, token=token),
        )
    return load_model(Path(path))[0]


def _refuse_paths(source: str) -> None:
    """Refuses what is probably the mistyped path of a folder, without asking the hub for it."""
    if source.startswith((".", "~", "/")) or source.endswith(("/", SUFFIX)) or "\\" in source:
        raise SettingError(f"{source!r} is neither a folder nor a repository name, OWNER/NAME")
    owner, *others = Path(source).parts or ("",)
    if others and Path(owner).is_dir():
        raise SettingError(
            f"there is no folder {source!r}; correct the path, or give a revision such as main for the "
            "repository of that name"
        )


def _answers(repository: str, *, revision: str | None, token: str | None) -> bool:
    """Whether the hub can be reached, found by one request, while a download would try again for 23 s.

    Raises:
        HfHubHTTPError: If it can, but has no such file.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url  # noqa: PLC0415 - an extra

    try:
        get_hf_file_metadata(hf_hub_url(repository, WEIGHTS, revision=revision), token=token)
    except (errors.HfHubHTTPError, errors.HFValidationError):
        raise
    except Exception:  # the HTTP library's errors depend on its version
        return False
    return True


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
    """Uploads a net, its settings and its model card to the Hugging Face Hub.

    Args:
        net: A packaged net's name, a file's path or a net, as for `save_pretrained`.
        repository: Name of the repository, OWNER/NAME. It is made if it is missing.
        about: How the net was trained, as for `save_pretrained`.
        licence: The licence of the weights, as for `save_pretrained`.
        private: Whether a new repository is private; by default the owner's settings decide.
        token: Token that may write; by default the one saved by `hf auth login`.
        message: Message of the commit.

    Returns:
        The address of the commit.

    Raises:
        SettingError: If the net cannot be saved, or `repository` is no possible name of a repository.
        CheckpointError: If `about` or the file of the net cannot be read.
        StorageError: If the hub cannot be reached or refuses the upload.
        MissingExtraError: If huggingface_hub is not installed.
    """
    with _hub_errors(repository, "upload the net to", StorageError):
        from huggingface_hub import hf_hub_url  # noqa: PLC0415 - an extra

        hf_hub_url(repository, WEIGHTS)  # refuses an impossible name
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(net, folder, about=about, name=repository, licence=licence)
        with _hub_errors(repository, "upload the net to", StorageError):
            from huggingface_hub import HfApi  # noqa: PLC0415 - an extra

            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(commit.commit_url)


def readme_of(card: Card) -> str:
    """Returns the content of README.md: the model card, after a YAML header that the hub reads.

    The header holds licence, task, tags and measured results. huggingface_hub writes it; without that
    library there is no header.
    """
    text = card.markdown(loader="from_pretrained")
    try:
        from huggingface_hub import EvalResult, ModelCardData  # noqa: PLC0415 - an extra
    except ImportError:
        return text
    psnr = "mean PSNR in dB at sigma {:g}, before {:.2f}"
    measured = [
        ("accuracy", round(row.correct / row.samples, 4), f"top-1 on {row.samples:,} clean test images")
        for row in select(card.info.figures, Accuracy)
        if row.k == 1
    ] + [
        ("psnr", round(row.restored_db, 2), psnr.format(row.sigma_grey, row.noisy_db))
        for row in select(card.info.figures, Restoring)
        if math.isfinite(row.noisy_db)
    ]
    results = [
        EvalResult(card.task, card.info.data.split(":")[0], card.info.data, metric, value, metric_name=name)
        for metric, value, name in measured
    ]
    signs = ["traffic-signs"] if card.shows_signs else []
    header = ModelCardData(
        license=card.info.licence.lower() or None,
        library_name="steadylens",
        pipeline_tag=card.task,
        tags=["image-restoration", "denoising", "robustness", *signs, "pytorch", "safetensors"],
        metrics=["accuracy"] if card.task == CLASSIFYING else ["psnr"],
        model_name=card.name if results else None,  # without results the header holds no name
        eval_results=results or None,
    )
    return f"---\n{header.to_yaml()}\n---\n\n{text}"


@contextmanager
def _hub_errors(repository: str, action: str, kind: type[CheckpointError | StorageError]) -> Iterator[None]:
    """Turns what the client of the hub raises into an error of this package, in one line.

    Args:
        repository: The name of the repository, as the user gave it.
        action: What the client is asked to do, for the message.
        kind: The type of the error, unless the name itself is at fault.
    """
    try:
        from huggingface_hub import errors  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    log_in = "pass a token that may do this, or run: hf auth login"
    try:
        yield
    except errors.HFValidationError as error:
        raise SettingError(f"{repository!r} is neither a folder nor a repository name, OWNER/NAME") from error
    except Exception as error:  # the client also raises what its HTTP library and its transfer library raise
        match error:
            case errors.RepositoryNotFoundError():
                reason = f"it does not exist or is private; check the name, {log_in}"
            case errors.RevisionNotFoundError():
                reason = "it has no such revision; check the revision or leave it out"
            case errors.RemoteEntryNotFoundError():
                reason = f"it holds no {WEIGHTS}; choose one that push_to_hub wrote"
            case (
                errors.HfHubHTTPError(response=answer)
                | errors.LocalEntryNotFoundError(__cause__=errors.HfHubHTTPError(response=answer))
            ):
                way_out = log_in if answer.status_code in {401, 403} else "try again later"
                reason = f"the hub answered {answer.status_code}; {way_out}"
            case errors.LocalEntryNotFoundError():
                reason = "there is no local folder or earlier download of it; check the connection to the hub"
            case OSError() if error.filename:
                reason = f"{error.strerror}: {error.filename}; choose another cache folder"
            case ValueError() if "README.md" in str(error):
                reason = f"{' '.join(str(error).split())}; choose a licence that the hub knows, such as MIT"
            case _:
                reason = f"{reason_of(error)}; check the connection"
        raise kind(f"cannot {action} the repository {repository!r}: {reason}") from error
