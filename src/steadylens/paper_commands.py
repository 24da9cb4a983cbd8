"""The commands of the paper: train, fuse, evaluate, report, and all of it in one."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.console import (
    Cache,
    Data,
    Debug,
    Device,
    File,
    Out,
    RecipeName,
    RecipeOption,
    Seed,
    explaining,
    lent_run,
    say,
)

if TYPE_CHECKING:
    from steadylens.run import Run


class NetName(StrEnum):
    """The nets of Table 1, by name."""

    L11 = "L11"
    L9 = "L9"
    L7 = "L7"
    L5 = "L5"
    L3 = "L3"
    Dong = "Dong"


Versions = Annotated[int | None, typer.Option(help="Noisy versions of each image in Table 4.")]
HalfWidth = Annotated[
    float | None,
    typer.Option(help="Sample each cell of Table 4 until its interval is within +- this share, say 0.001."),
]


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
    with explaining(debug), lent_run(data, recipe, seed, device, cache) as run:
        from steadylens.pipeline import reproduce as reproduce_all

        page = reproduce_all(_sampling(run, versions, half_width), out)
    say(f"report: {page.resolve()}")


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
    with explaining(debug), lent_run(data, recipe, seed, device, cache) as run:
        from steadylens.stages import train_restorer

        train_restorer(run, net.value, out)
    say(f"net: {out.resolve()}")


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
    with explaining(debug), lent_run(data, recipe, seed, device, cache) as run:
        from steadylens.stages import train_classifier

        train_classifier(run, out, noisy=noisy)
    say(f"classifier: {out.resolve()}")


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
    with explaining(debug), lent_run(data, recipe, seed, device, cache) as run:
        from steadylens.pipeline import fuse_files

        fuse_files(run, restorer, classifier, out)
    say(f"fused classifier: {out.resolve()}")


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
    with explaining(debug), lent_run(data, recipe, seed, device, cache) as run:
        from steadylens.pipeline import evaluate_files

        page = evaluate_files(_sampling(run, versions, half_width), models, out)
    say(f"report: {page.resolve()}")


def report(
    records: Annotated[list[Path], typer.Argument(help="Files of records, .jsonl.")],
    out: Annotated[Path, typer.Option(help="Page to write; tables.md is written beside it.")] = Path(
        "report.html"
    ),
    debug: Debug = False,
) -> None:
    """Make the report page again from records alone; no net is needed."""
    with explaining(debug):
        from steadylens.records import read_records
        from steadylens.report import write_report, write_tables

        rows = [row for path in records for row in read_records(path)]
        write_report(rows, out)
        write_tables(rows, out.with_name("tables.md"))
    say(f"report: {out.resolve()}")


def _sampling(run: "Run", versions: int | None, half_width: float | None) -> "Run":
    """Returns the run with another number of noisy versions, or another precision, in Table 4."""
    from steadylens.stability import Sampling

    usual = run.recipe.evaluation.sampling
    most = versions if versions is not None else (usual.versions if half_width is None else 150)
    sampling = Sampling(versions=most, half_width=half_width if half_width is not None else usual.half_width)
    evaluation = dataclasses.replace(run.recipe.evaluation, sampling=sampling)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, evaluation=evaluation))
