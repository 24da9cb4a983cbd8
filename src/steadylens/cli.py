"""The command line: parse, call one function, print. PyTorch is imported by the commands that need it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from steadylens import __version__
from steadylens.display import Display
from steadylens.errors import MissingExtraError, SettingError, SteadylensError

if TYPE_CHECKING:
    import torch

    from steadylens.run import Run


class RecipeName(StrEnum):
    """The recipes, by name."""

    paper = "paper"
    thorough = "thorough"
    fast = "fast"
    quick = "quick"
    smoke = "smoke"


class NetName(StrEnum):
    """The nets of Table 1, by name."""

    L11 = "L11"
    L9 = "L9"
    L7 = "L7"
    L5 = "L5"
    L3 = "L3"
    Dong = "Dong"


Data = Annotated[
    str,
    typer.Option(
        help="Where the images come from: signs (drawn, 43 classes), gtsrb:DIR (official archives or the "
        "CSV repackaging) or folder:DIR (one folder a class).",
    ),
]
RecipeOption = Annotated[
    RecipeName,
    typer.Option(
        "--recipe", help="paper: days. fast: about half an hour on 2 cores. quick: minutes. smoke: seconds."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed that all randomness is derived from.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder for decoded images; by default the user's cache folder.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; what it holds already is not made again.")]
File = Annotated[
    Path, typer.Option("--out", help="File to write; if it is there already, nothing is trained.")
]
Versions = Annotated[int | None, typer.Option(help="Noisy versions of each image in Table 4.")]
HalfWidth = Annotated[
    float | None,
    typer.Option(help="Sample each cell of Table 4 until its interval is within +- this share, say 0.001."),
]

app = typer.Typer(
    name="steadylens",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train = typer.Typer(help="Train one net.", no_args_is_help=True)
app.add_typer(train, name="train")


def main() -> None:
    """Runs the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"steadylens {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def steadylens(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Put a restoration ConvNet in front of an image classifier, and measure how much steadier it is."""


@app.command()
def reproduce(
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    out: Out = Path("runs/demo"),
    versions: Versions = None,
    half_width: HalfWidth = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train, fuse, evaluate: Tables 2 to 4 and Figures 1 to 4 of the paper, on one report page."""
    with _explaining(debug), _run(data, recipe, seed, device, cache) as run:
        from steadylens.pipeline import reproduce as reproduce_all

        page = reproduce_all(_sampling(run, versions, half_width), out)
    _say(f"report: {page.resolve()}")


@train.command("restorer")
def train_one_restorer(
    net: Annotated[NetName, typer.Argument(help="The net of Table 1.")],
    out: File,
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train a restoration net on noisy images of the training set."""
    with _explaining(debug), _run(data, recipe, seed, device, cache) as run:
        from steadylens.stages import train_restorer

        train_restorer(run, net.value, out)
    _say(f"net: {out.resolve()}")


@train.command("classifier")
def train_one_classifier(
    out: File,
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Train on noisy images, fresh in every step.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train the sign net from the start."""
    with _explaining(debug), _run(data, recipe, seed, device, cache) as run:
        from steadylens.stages import train_classifier

        train_classifier(run, out, noisy=noisy)
    _say(f"classifier: {out.resolve()}")


@app.command()
def fuse(
    restorer: Annotated[Path, typer.Argument(help="File of a trained restorer.")],
    classifier: Annotated[Path, typer.Argument(help="File of a trained classifier.")],
    out: File,
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Put a restorer in front of a classifier and fine-tune the classifier behind it."""
    with _explaining(debug), _run(data, recipe, seed, device, cache) as run:
        from steadylens.pipeline import fuse_files

        fuse_files(run, restorer, classifier, out)
    _say(f"fused classifier: {out.resolve()}")


@app.command()
def evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="Files of restorers and of classifiers, in any order.")
    ],
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    out: Out = Path("runs/evaluation"),
    versions: Versions = None,
    half_width: HalfWidth = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Measure trained nets: how well restorers restore, how accurate and steady classifiers are."""
    with _explaining(debug), _run(data, recipe, seed, device, cache) as run:
        from steadylens.pipeline import evaluate_files

        page = evaluate_files(_sampling(run, versions, half_width), models, out)
    _say(f"report: {page.resolve()}")


@app.command()
def report(
    records: Annotated[list[Path], typer.Argument(help="Files of records, .jsonl.")],
    out: Annotated[Path, typer.Option(help="Page to write; tables.md is written beside it.")] = Path(
        "report.html"
    ),
    debug: Debug = False,
) -> None:
    """Make the report page again from records alone; no net is needed."""
    with _explaining(debug):
        from steadylens.records import read_records
        from steadylens.report import write_report, write_tables

        rows = [row for path in records for row in read_records(path)]
        write_report(rows, out)
        write_tables(rows, out.with_name("tables.md"))
    _say(f"report: {out.resolve()}")


@contextmanager
def _explaining(debug: bool) -> Iterator[None]:
    """Turns an error that the user can mend into one line and an exit code."""
    try:
        yield
    except SteadylensError as error:
        if debug:
            raise
        Console(stderr=True).print(f"steadylens: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, SettingError | MissingExtraError) else 1) from None
    except (OSError, MemoryError) as error:
        if debug:
            raise
        text = f"{str(error) or type(error).__name__}; --debug shows where"
        Console(stderr=True).print(f"steadylens: {text}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if debug:
            raise
        console = Console(stderr=True)
        if console.is_terminal:
            console.line()  # the terminal has shown ^C
        console.print("steadylens: interrupted; the same command goes on from what is saved", soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def _run(data: str, recipe: RecipeName, seed: int, device: str, cache: Path | None) -> Iterator["Run"]:
    """Loads the images and lends a run whose news are shown."""
    from steadylens.datasets import load_dataset
    from steadylens.recipes import recipe_named
    from steadylens.run import Run, Update

    place, stage = _device(device), f"images of {data}"
    with Display(Console()) as display:

        def loading(done: int, total: int) -> None:
            display.show(Update(stage=stage, state="advanced", done=done, total=total))

        display.show(Update(stage=stage, state="started"))
        images = load_dataset(data, seed=seed, cache=cache, progress=loading)
        sizes = f"{len(images.train):,} for training, {len(images.validation):,} for validation, "
        note = f"{sizes}{len(images.test):,} for testing"
        display.show(Update(stage=stage, state="finished", note=note))
        for line in images.notes:
            display.console.print(f"  note: {line}", markup=False, highlight=False, soft_wrap=True)
        parts = {name: getattr(images, name).to(place) for name in ("train", "validation", "test")}
        moved = dataclasses.replace(images, **parts)
        yield Run(
            data=moved, recipe=recipe_named(recipe.value), seed=seed, device=place, observe=display.show
        )


def _sampling(run: "Run", versions: int | None, half_width: float | None) -> "Run":
    """Returns the run with another number of noisy versions, or another precision, in Table 4."""
    from steadylens.stability import Sampling

    usual = run.recipe.evaluation.sampling
    most = versions if versions is not None else (usual.versions if half_width is None else 150)
    sampling = Sampling(versions=most, half_width=half_width if half_width is not None else usual.half_width)
    evaluation = dataclasses.replace(run.recipe.evaluation, sampling=sampling)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, evaluation=evaluation))


def _device(name: str) -> "torch.device":
    import torch

    from steadylens.acceleration import default_device

    if name == "auto":
        return default_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device without storage, as meta, fails here
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingError(f"the device {name!r} cannot be used here ({reason}); try cpu or auto") from error
    return device


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
