"""The commands of the paper: train, evaluate, report, and all of it in one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steadylens.cli.console import (
    Cache,
    Data,
    Debug,
    Device,
    File,
    FitOption,
    HalfWidth,
    Out,
    RecipeName,
    RecipeOption,
    Seed,
    Versions,
    explaining,
    lent_run,
    preprocessing_options,
    sampled,
    say,
)


class NetName(StrEnum):
    """The nets of Table 1, by name."""

    L11 = "L11"
    L9 = "L9"
    L7 = "L7"
    L5 = "L5"
    L3 = "L3"
    Dong = "Dong"


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
    with explaining(debug, goes_on=True), lent_run(data, recipe, seed, device, cache) as run:
        from steadylens.evaluation.workflows import reproduce as reproduce_all

        page = reproduce_all(sampled(run, versions, half_width), out)
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
    with explaining(debug, goes_on=True):
        from steadylens.training.stages import check_suffix, train_restorer

        check_suffix(out)
        with lent_run(data, recipe, seed, device, cache) as run:
            train_restorer(run, net.value, out)
    say(f"net: {out.resolve()}")


def train_one_classifier(
    out: File,
    data: Data = "signs",
    recipe: RecipeOption = RecipeName.quick,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Train on noisy images, fresh in every step.")
    ] = False,
    fit: FitOption = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: Cache = None,
    debug: Debug = False,
) -> None:
    """Train the sign net from the start."""
    with explaining(debug, goes_on=True):
        from steadylens.training.stages import check_suffix, train_classifier

        check_suffix(out)
        fitted = preprocessing_options(None, None, None, fit).fit
        with lent_run(data, recipe, seed, device, cache, fit=fitted) as run:
            train_classifier(run, out, noisy=noisy)
    say(f"classifier: {out.resolve()}")


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="Restorers and classifiers, in any order: files, or names of packaged nets."),
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
    with explaining(debug, goes_on=True):
        from steadylens.checkpoints.loading import load_net
        from steadylens.evaluation.workflows import evaluate_nets

        nets = [load_net(model, further="; for others, there is steadylens compare") for model in models]
        with lent_run(data, recipe, seed, device, cache) as run:
            page = evaluate_nets(sampled(run, versions, half_width), nets, out)
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
        from steadylens.report.page import write_report, write_tables

        rows = [row for path in records for row in read_records(path)]
        write_report(rows, out)
        write_tables(rows, out.with_name("tables.md"))
    say(f"report: {out.resolve()}")
