"""The commands for the paper's experiments: train, evaluate, report, and reproduce, which does all three."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadylens.cli.console import (
    FIT_HELP,
    Debug,
    File,
    Out,
    RunOptions,
    SamplingOptions,
    explaining,
    open_run,
    sharing_work,
    with_option_groups,
)
from steadylens.cli.display import say
from steadylens.errors import SettingError

if TYPE_CHECKING:
    from steadylens.checkpoints.loading import LoadedNet


class NetName(StrEnum):
    """The restorers, by name: those of the paper's Table 1, and the U-Net."""

    L11 = "L11"
    L9 = "L9"
    L7 = "L7"
    L5 = "L5"
    L3 = "L3"
    Dong = "Dong"
    UNet = "UNet"


@with_option_groups
def reproduce(
    options: RunOptions,
    sampling: SamplingOptions,
    out: Out = Path("runs/demo"),
    debug: Debug = False,
) -> None:
    """Reproduce the paper: train, fuse and evaluate all nets, and report its tables and figures."""
    with sharing_work(debug), open_run(options, out, sampling=sampling) as run:
        from steadylens.evaluation.workflows import reproduce as reproduce_all

        page = reproduce_all(run, out)
    say(f"report: {page.resolve()}")


@with_option_groups
def train_one_restorer(
    net: Annotated[NetName, typer.Argument(help="A net of the paper's Table 1, or UNet.")],
    out: File,
    options: RunOptions,
    start: Annotated[
        str | None,
        typer.Option(
            help="A restorer of the same architecture whose training goes on with these images and this "
            "recipe: a .safetensors file or a packaged net. By default, the net is a new one."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train a restoration net on noisy training images."""
    with sharing_work(debug):
        from steadylens.training.stages import check_suffix, train_restorer

        check_suffix(out)
        began = None if start is None else _restorer_like(net, start)
        with open_run(options, out) as run:
            train_restorer(run, began or net.value, out)
    say(f"net: {out.resolve()}")


def _restorer_like(net: NetName, source: str) -> "LoadedNet":
    """Returns a trained restorer if it has the architecture of the named net."""
    from steadylens.checkpoints.loading import load_net
    from steadylens.nets.architecture import describe, restorer_named
    from steadylens.nets.facts import RESTORING

    found = load_net(source, task=RESTORING)
    wanted = restorer_named(net.value, padding=getattr(found.module, "padding", "zeros"))
    if describe(found.module) != describe(wanted):
        raise SettingError(
            f"{source} is no {net.value}, so it cannot be its start; give one of the same architecture"
        )
    return found


@with_option_groups
def train_one_classifier(
    out: File,
    options: RunOptions,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="Train on noisy images, with new noise in every step.")
    ] = False,
    fit: Annotated[str, typer.Option(help=f"{FIT_HELP}.")] = "squash",
    debug: Debug = False,
) -> None:
    """Train the traffic sign classifier SignNet from scratch."""
    with sharing_work(debug):
        from steadylens.images.preprocessing import Fit
        from steadylens.training.stages import check_suffix, train_classifier

        check_suffix(out)
        with open_run(options, out, fit=Fit.parse(fit)) as run:
            train_classifier(run, out, noisy=noisy)
    say(f"classifier: {out.resolve()}")


@with_option_groups
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="Restorers and classifiers: .safetensors files or names of packaged nets."),
    ],
    options: RunOptions,
    sampling: SamplingOptions,
    out: Out = Path("runs/evaluation"),
    debug: Debug = False,
) -> None:
    """Measure trained nets: restoration quality, accuracy, and stability under noise."""
    with sharing_work(debug):
        from steadylens.checkpoints.loading import load_net
        from steadylens.evaluation.workflows import evaluate_nets

        nets = [load_net(model, alternatives="; for others, there is steadylens compare") for model in models]
        with open_run(options, out, sampling=sampling, training=False) as run:
            page = evaluate_nets(run, nets, out)
    say(f"report: {page.resolve()}")


def report(
    records: Annotated[list[Path], typer.Argument(help="Record files (.jsonl) of earlier runs.")],
    out: Annotated[Path, typer.Option(help="HTML page to write; tables.md is written beside it.")] = Path(
        "report.html"
    ),
    debug: Debug = False,
) -> None:
    """Write the report page again from saved records; no net is needed."""
    with explaining(debug):
        from steadylens.records import read_records
        from steadylens.report.page import write_report, write_tables

        rows = [row for path in records for row in read_records(path)]
        write_report(rows, out)
        write_tables(rows, out.with_name("tables.md"))
    say(f"report: {out.resolve()}")
