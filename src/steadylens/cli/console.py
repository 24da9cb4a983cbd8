"""What commands share: options, error messages, progress display, and the run that they work on."""

import dataclasses
import functools
import inspect
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from steadylens.cli.display import Display, complain, say, several, speaks
from steadylens.errors import (
    MissingExtraError,
    SettingError,
    SteadylensError,
    WorkerLostError,
    lacks_memory,
    reason_of,
)
from steadylens.files import check_folder, check_place
from steadylens.progress import Update

if TYPE_CHECKING:
    import torch

    from steadylens.checkpoints.loading import LoadedNet
    from steadylens.images.preprocessing import Fit, PreprocessingOptions
    from steadylens.training.run import Recipe, Run


class RecipeName(StrEnum):
    """The recipes, by name."""

    paper = "paper"
    paper_quarter = "paper-quarter"
    unet = "unet"
    smoothing = "smoothing"
    photographs = "photographs"
    camera = "camera"
    long = "long"
    thorough = "thorough"
    fast = "fast"
    quick = "quick"
    smoke = "smoke"


class NoiseName(StrEnum):
    """The kinds of noise, by name."""

    gaussian = "gaussian"
    uniform = "uniform"
    laplacian = "laplacian"
    sparse = "sparse"
    attenuated = "attenuated"
    salt_and_pepper = "salt-and-pepper"
    poisson = "poisson"
    demosaiced = "demosaiced"
    resized = "resized"
    correlated = "correlated"
    banded = "banded"
    jpeg = "jpeg"


Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]

Device = Annotated[
    str,
    typer.Option(help="Device to compute on: cpu, cuda, cuda:1 and so on; auto uses a GPU if there is one."),
]

Out = Annotated[
    Path, typer.Option(help="Output folder. Results that it already holds are kept and not computed again.")
]

File = Annotated[
    Path, typer.Option("--out", help="File to write, .safetensors. If it already exists, nothing is trained.")
]

ClassifierName = Annotated[
    str,
    typer.Argument(
        help="The classifier: timm:NAME or torchvision:NAME (both with --weights), transformers:DIR, an "
        "exported program (.pt2), an .onnx or .safetensors file, or a packaged net such as sign-gtsrb."
    ),
]

Weights = Annotated[
    Path | None,
    typer.Option(
        help="Local file with the weights of a timm or torchvision classifier. Nothing is downloaded."
    ),
]

FIT_HELP = (
    "How images are made square: squash (stretch them), crop (take the centre) or crop:SIDE (resize the "
    "shorter side to SIDE pixels, then take the centre)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The options of every command that trains or measures nets.

    Attributes:
        data: The source of the images.
        recipe: The recipe's name.
        seed: The seed of all random numbers.
        device: The device's name, or auto.
        cache: Folder for decoded images, or None for the user's cache folder.
        memory: GiB of decoded images up to which a data set is kept in memory.
        class_names: File of the class names in the order of the classifier's outputs, or None for the order
            of the data.
        skip_damaged: Whether images that cannot be read are left out.
    """

    data: Annotated[
        str,
        typer.Option(
            help="Images to use: signs (synthetic traffic signs, 43 classes), gtsrb:DIR (the GTSRB data "
            "set: its official archives, or the layout with CSV files), folder:DIR (one subfolder per class, "
            "or train and test, or train and val, with one in each; only test or val will do where nothing "
            "is trained), shards:PLACE (tar files of the webdataset layout: a folder, or a pattern such as "
            "'DIR/train-{0000..0099}.tar') or photographs:DIR (photographs without labels, in tiles, to "
            "train a restorer on)."
        ),
    ] = "signs"
    recipe: Annotated[
        RecipeName,
        typer.Option(
            help="How much to train and to measure. smoke: seconds. quick: minutes. fast: half an hour. "
            "thorough and unet: hours on 2 CPU cores; smoothing: as unet, for certificates; photographs and "
            "camera: restorers of photographs. paper-quarter, paper and long: on a GPU."
        ),
    ] = RecipeName.quick
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0
    device: Device = "auto"
    cache: Annotated[
        Path | None, typer.Option(help="Folder for decoded images; by default, the user's cache folder.")
    ] = None
    memory: Annotated[
        float,
        typer.Option(
            help="GiB of decoded images that are kept in memory (with a GPU, in its memory). A larger data "
            "set stays in its cache file, from which each batch is read; the results are the same."
        ),
    ] = 2.0
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="Text file with the class names in the order of the classifier's outputs, one per line. By "
            "default, class folders are numbered in the order of their names as text."
        ),
    ] = None
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave out images that cannot be read, and name them.")
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """The options of which noise is sampled for Table 4, and how much.

    Attributes:
        versions: Noisy versions of each image, or None for the recipe's number.
        half_width: Half the width that the 95 % confidence intervals may have, as a share, or None for any.
        noise: The kinds of noise, or None for the recipe's.
    """

    versions: Annotated[
        int | None,
        typer.Option(help="How many noisy versions of each test image are classified for Table 4."),
    ] = None
    half_width: Annotated[
        float | None,
        typer.Option(
            help="How exact every accuracy under noise must be: 0.001 means plus or minus 0.1 percentage "
            "points, at 95 % confidence. Noisy versions of the test images are drawn until it is reached, at "
            "most --versions of each (150 by default)."
        ),
    ] = None
    noise: Annotated[
        list[NoiseName] | None,
        typer.Option(
            help="Kind of noise under which answers must stay right; gaussian by default. May be repeated: "
            "each gives a table. sparse, attenuated: Gaussian noise, at a fifth of the values only, or "
            "weaker at the others. poisson: photons, stronger where it is bright. demosaiced, resized, "
            "correlated: blurred by a camera, by enlarging twofold, or by one pixel. banded: whole rows or "
            "columns. jpeg: Gaussian, then stored as JPEG."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierOptions:
    """The options that say what a classifier itself does not state; None leaves it to the classifier.

    Attributes:
        weights: File of the weights.
        size: Height and width of the input in pixels.
        mean: Mean of R, G and B in [0, 1].
        std: Standard deviation of R, G and B in [0, 1].
        fit: How images are made square.
    """

    weights: Weights = None
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width in pixels of the classifier's input; by default, what the classifier "
            "states."
        ),
    ] = None
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Mean of R, G and B in [0, 1] for the classifier's normalization; by default, what it "
            "states."
        ),
    ] = None
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            help="Standard deviation of R, G and B for the classifier's normalization; by default, what it "
            "states."
        ),
    ] = None
    fit: Annotated[str | None, typer.Option(help=f"{FIT_HELP}; by default, what the classifier states.")] = (
        None
    )
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema",
            help="Take averaged weights from the file, or those of the last step; by default, averaged ones "
            "if there are any.",
        ),
    ] = None

    def preprocessing(self) -> "PreprocessingOptions":
        """Returns what the options say about the classifier's preprocessing."""
        from steadylens.images.preprocessing import Fit, PreprocessingOptions

        fit = None if self.fit is None else Fit.parse(self.fit)
        return PreprocessingOptions(size=self.size, mean=self.mean, std=self.std, fit=fit)

    def load(self, source: str) -> "LoadedNet":
        """Returns the classifier of that name or file, as the options describe it."""
        from steadylens.checkpoints.loading import load_classifier

        return load_classifier(source, weights=self.weights, options=self.preprocessing(), ema=self.ema)


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Makes one option out of each field, where a parameter of a command is a dataclass of options.

    The command line then shows the fields in the place of the parameter, and the command gets the dataclass.
    """
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in parameters if is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def call(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **made)

    shown: list[inspect.Parameter] = []
    for each in parameters:
        options = fields(groups[each.name]) if each.name in groups else ()
        shown += [
            each.replace(name=field.name, annotation=field.type, default=field.default) for field in options
        ] or [each]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown]
    )
    return call


MOST_VERSIONS = 150
"""How many noisy versions of an image are tried at most to reach a precision."""


@contextmanager
def explaining(debug: bool, *, resumable: bool = False) -> Iterator[None]:
    """Turns an error that the user can fix into one line of text and an exit code.

    Args:
        debug: Whether to raise the error unchanged instead.
        resumable: Whether the same command continues from saved results after an interrupt.
    """
    try:
        yield
    except SteadylensError as error:
        if debug:
            raise
        _complain_once(str(error), lost=isinstance(error, WorkerLostError))
        raise typer.Exit(2 if isinstance(error, SettingError | MissingExtraError) else 1) from None
    except BrokenPipeError:  # whoever reads the output has read enough; `main` ends quietly
        raise
    except (OSError, MemoryError, RuntimeError) as error:
        if debug or (isinstance(error, RuntimeError) and not lacks_memory(error)):
            raise
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        else:
            reason = reason_of(error)
        _complain_once(f"{reason}; --debug shows where")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if debug:
            raise
        console = Console(stderr=True)
        if console.is_terminal and speaks():
            console.line()  # the terminal has shown ^C
        advice = "run the same command again to continue" if resumable else "no unfinished file was left"
        complain(f"interrupted; {advice}")
        raise typer.Exit(1) from None


def _complain_once(text: str, *, lost: bool = False) -> None:
    """Prints an error: worker 0 always, another worker with its number if worker 0 does not say the same.

    Args:
        text: The message.
        lost: Whether the error is only that another worker has failed.
    """
    if speaks():
        complain(text)
    if not several():
        return
    from steadylens import workers

    number = workers.rank()
    if not workers.first_says(text) and number and not lost:
        complain(text, worker=number)


@contextmanager
def sharing_work(debug: bool) -> Iterator[None]:
    """Joins the workers that `torchrun` started, if any, for a command that continues from saved results.

    An error that a user can fix is explained as `explaining` does: once if all workers have it, or else with
    the number of the worker.
    """
    from steadylens import workers

    with explaining(debug), workers.joined(), explaining(debug, resumable=True):
        yield


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Lets SIGTERM do within the block what Ctrl+C does, so that files being written are removed."""
    if threading.current_thread() is not threading.main_thread():  # others may not ask for signals
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def open_run(
    options: RunOptions,
    out: Path,
    *,
    sampling: SamplingOptions | None = None,
    size: int | None = None,
    fit: "Fit | None" = None,
    training: bool = True,
) -> Iterator["Run"]:
    """Loads the images, squashed or fitted to `size` pixels, and yields a run whose progress is shown.

    Without a size it is that of `load_dataset`.

    All options are checked before an image is decoded, `out` too: the file of weights or the folder to write.
    SIGTERM ends the run as Ctrl+C does. Unless `training`, a folder with test images alone will do.

    Of several workers, each gets a device of its own; one decodes the images, and the others read its cache.
    """
    from steadylens import workers
    from steadylens.data.class_folders import read_class_names
    from steadylens.data.datasets import load_dataset
    from steadylens.data.sources import Selection
    from steadylens.images.preprocessing import Fit
    from steadylens.training.run import Run

    device, recipe = _own_device(options.device), _recipe(options, sampling or SamplingOptions())
    stage = f"images of {options.data}"
    names = () if options.class_names is None else read_class_names(options.class_names)
    check = check_place if out.suffix == ".safetensors" else check_folder
    workers.by_first(lambda: check(out))
    with terminated_as_interrupted(), Display(Console()) as display:

        def loading(done: int, total: int) -> None:
            display.show(Update(stage=stage, state="advanced", done=done, total=total))

        if workers.count() > 1:
            say(f"  {workers.count():,} workers, each on {device.type}", display.console)
        display.show(Update(stage=stage, state="started"))
        images = workers.in_turns(
            lambda: load_dataset(
                options.data,
                size=size,
                fit=fit or Fit(),
                seed=options.seed,
                selection=Selection(skip_damaged=options.skip_damaged, class_names=names, training=training),
                cache=options.cache,
                memory=_bytes(options.memory),
                progress=loading,
            )
        )
        workers.check_agreement("images", images.fingerprint)
        sizes = f"{len(images.train):,} for training, {len(images.validation):,} for validation, "
        note = f"{sizes}{len(images.test):,} for testing"
        display.show(Update(stage=stage, state="finished", note=note))
        described = [_described(images.counts())] if images.class_names else []
        for line in (*described, *(f"note: {line}" for line in images.notes)):
            say(f"  {line}", display.console)
        yield Run(
            data=images.to(device),
            recipe=recipe,
            seed=options.seed,
            device=device,
            observe=display.show,
        )


def _bytes(gib: float) -> int:
    if not 0 <= gib < math.inf:
        raise SettingError(f"--memory is {gib}, it must be a number of GiB, at least 0")
    return int(gib * 2**30)


MOST_CLASSES = 20
"""How many classes are listed before the work starts."""


def _described(counts: list[tuple[str, int, int, int]]) -> str:
    """Returns number, name and images of each class; of many classes, of the first and the last ones."""
    texts = [f"{number} {name} {'/'.join(map(str, some))}" for number, (name, *some) in enumerate(counts)]
    if len(texts) > MOST_CLASSES:
        texts = [*texts[: MOST_CLASSES - 2], "...", texts[-1]]
    return f"{len(counts):,} classes, with images for training/validation/testing: {', '.join(texts)}"


def _recipe(options: RunOptions, wanted: SamplingOptions) -> "Recipe":
    """Returns the recipe with the kinds and the amount of noise that the options ask for."""
    from steadylens.training.recipes import recipe_named
    from steadylens.training.run import Sampling

    recipe = recipe_named(options.recipe.value)
    usual, half_width = recipe.evaluation.sampling, wanted.half_width
    most = wanted.versions
    if most is None:
        most = usual.versions if half_width is None else MOST_VERSIONS
    sampling = Sampling(versions=most, half_width=usual.half_width if half_width is None else half_width)
    noises = tuple(noise.value for noise in wanted.noise or ()) or recipe.evaluation.noises
    evaluation = dataclasses.replace(recipe.evaluation, sampling=sampling, noises=noises)
    return dataclasses.replace(recipe, evaluation=evaluation)


def _own_device(name: str) -> "torch.device":
    """Returns the device with that name; workers that use GPUs each get one of their own."""
    import torch

    from steadylens import workers

    if not workers.started() or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return workers.local_device(device_named(name))
    device = workers.local_device(torch.device("cuda"))
    torch.cuda.set_device(device)  # else every worker takes memory of the first GPU, too
    return device


def device_named(name: str) -> "torch.device":
    """Returns the device with that name; see `steadylens.devices.device_named`."""
    from steadylens import devices

    return devices.device_named(name)
