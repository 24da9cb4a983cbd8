"""Packages the nets of a run under src/steadylens/weights, with what was measured of them.

Usage: python docs/package_weights.py RUN RECORDS
RUN is a folder that `steadylens reproduce` wrote, RECORDS the run's file of records, under results/. Nets
for photographs are RUN/models/restorer-photographs.safetensors and restorer-camera.safetensors, their records
are of other photographs. The
weights are rounded to float16. What the packaged nets make of a fixed image is written to
tests/pretrained_outputs.json, so that a test can hold any machine to it.
"""

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steadylens.checkpoints.checkpoint import SUFFIX, fingerprint, load_model, save_model
from steadylens.errors import SettingError
from steadylens.files import replacing
from steadylens.images.tensors import GREY_LEVELS
from steadylens.records import (
    Accuracy,
    Comparison,
    Cost,
    Hits,
    Measurement,
    Restoring,
    Stability,
    encode,
    read_records,
)
from steadylens.report.paper import ORIGINAL, TOGETHER
from steadylens.report.tables import first_run

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "src" / "steadylens" / "weights"
OUTPUTS = ROOT / "tests" / "pretrained_outputs.json"
IMAGE_AXES = 4

SOURCES = {
    "unet-gtsrb": ("restorer-UNet", "UNet"),
    "l11-gtsrb": ("restorer-L11", "L11"),
    "l9-gtsrb": ("restorer-L9", "L9"),
    "l7-gtsrb": ("restorer-L7", "L7"),
    "l5-gtsrb": ("restorer-L5", "L5"),
    "l3-gtsrb": ("restorer-L3", "L3"),
    "dong-gtsrb": ("restorer-Dong", "Dong"),
    "sign-gtsrb": ("original", ORIGINAL),
    "fused-gtsrb": ("together", TOGETHER),
    "unet-photos": ("restorer-photographs", "unet-photos"),
    "unet-camera": ("restorer-camera", "unet-camera"),
}
"""By the name of a packaged net: its file in the run, and what the records call it."""

PHOTOGRAPHS = (
    "The photographs are the 250 of CID22, the Compression Image Dataset 2022 of Cloudinary, under CC BY-SA "
    "4.0, and 41 in the public domain: wallpapers of the Budgie desktop (CC0), photographs of NASA and "
    "SpaceX, and wallpapers of Pop!_OS and elementary OS that were on Unsplash before June 2017 (CC0)."
)

ATTRIBUTIONS = {"unet-photos": PHOTOGRAPHS, "unet-camera": PHOTOGRAPHS}
"""Whose the training images are, by the name of a packaged net."""


def main(run: Path, records: Path) -> None:
    """Packages the nets that the run has; what it lacks stays packaged as it is."""
    rows = first_run(read_records(records))  # the nets that ship are those of the run's own seed
    for name, (stem, network) in SOURCES.items():
        if (source := run / "models" / f"{stem}{SUFFIX}").exists():
            package(
                source, WEIGHTS / f"{name}{SUFFIX}", figures_of(network, rows), ATTRIBUTIONS.get(name, "")
            )
    with replacing(OUTPUTS) as temporary:
        found = {name: outputs(load_model(WEIGHTS / f"{name}{SUFFIX}")[0]) for name in SOURCES}
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def package(source: Path, target: Path, figures: Sequence[Measurement], attribution: str = "") -> None:
    """Writes one net of a run as it is shipped.

    Raises:
        SettingError: If a figure is of another recipe, seed or, unless the images are photographs without a
            test part, of other data than the net.
    """
    module, about = load_model(source)
    for row in figures:
        origin = row.provenance
        data = about["data"] if about["data"].startswith("photographs") else origin.data.rpartition(" (")[0]
        found = (origin.recipe, origin.seed, data)
        if found != (about["recipe"], about["seed"], about["data"]):
            raise SettingError(f"{source} is of another run than the records {found}; give those of its run")
    forget_folders(about)
    if attribution:
        about["attribution"] = attribution
    about["figures"] = [encode(row) for row in figures]
    # What rounding changed cannot be told of weights that were rounded before.
    about["stored_as"] = about.get("stored_as", "float16") if is_rounded(module) else rounding(module)
    save_model(target, module, about=about, dtype=torch.float16)


def forget_folders(about: dict[str, Any]) -> None:
    """Leaves out the folders that lead to the data, which are of one machine: gtsrb:a/b becomes gtsrb:b."""
    for described in (about, *about.get("origins", {}).values()):
        kind, colon, place = described["data"].partition(":")
        described["data"] = f"{kind}{colon}{Path(place).name}"


def is_rounded(module: nn.Module) -> bool:
    """Whether float16 holds the weights of a net as they are."""
    return fingerprint(rounded(module)) == fingerprint(module)


def rounded(module: nn.Module) -> nn.Module:
    """Returns a copy of a net whose weights went through float16."""
    return copy.deepcopy(module).half().float()


def rounding(module: nn.Module) -> str:
    """Says that weights are stored in float16, and how much this changed the answer to the fixed image."""
    before = answer(module)
    change = float((answer(rounded(module)) - before).abs().max())
    if before.ndim == IMAGE_AXES:
        told = f"restored images by at most {change * GREY_LEVELS:.2g} grey levels"
    else:
        told = f"logits by at most {change:.2g}, their spread being {before.std():.2g}"
    return f"float16, which changed an example of {told}"


def figures_of(network: str, rows: Sequence[Measurement]) -> list[Measurement]:
    """Returns the rows about one network, without those that are only drawn."""
    return list(_figures_of(network, rows))


def _figures_of(network: str, rows: Sequence[Measurement]) -> Iterator[Measurement]:
    for row in rows:
        match row:
            case Restoring() | Hits() | Accuracy() | Stability() | Cost():
                named = {row.network}
            case Comparison():
                named = {row.first, row.second}
            case _:
                continue
        if network in named:
            yield row


def example() -> Tensor:
    """Returns the fixed image whose outputs are kept, (1, 3, 48, 48): coarse steps under fine texture."""
    place = torch.arange(3 * 48 * 48).view(1, 3, 48, 48)
    return ((place // 37 % 200 + place * 7 % 56).float() / 255).clamp(0, 1)


def outputs(module: nn.Module) -> list[float]:
    """Returns 16 values of what a net makes of the fixed image, evenly spread over its output."""
    values = answer(module).flatten()
    step = max(1, len(values) // 16 - 1)  # odd for these nets' outputs, so that all columns are met
    return [round(float(value), 6) for value in values[::step][:16]]


def answer(module: nn.Module) -> Tensor:
    """Returns what a net makes of the fixed image."""
    with torch.inference_mode():
        return module(example())  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
