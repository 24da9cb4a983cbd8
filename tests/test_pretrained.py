"""The nets that ship with the package load by name, are those that were measured, and are small."""

import json
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import steadylens
from steadylens import pretrained
from steadylens.checkpoint import save_model
from steadylens.classification import SignNet
from steadylens.errors import CheckpointError, SettingError
from steadylens.fusion import FusedClassifier
from steadylens.images import GREY_LEVELS
from steadylens.paper import CLASSIFIER_PARAMETERS, FUSED_PARAMETERS, TABLE_1
from steadylens.pretrained import PRETRAINED, card, load
from steadylens.recordfiles import read_records
from steadylens.records import Accuracy, Measurement
from steadylens.restoration import DongNet, RestorationNet
from steadylens.tables import first_run

ROOT = Path(__file__).parent.parent
PACKAGER: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "package_weights.py"), run_name="packager")
OUTPUTS: dict[str, list[float]] = json.loads((ROOT / "tests" / "pretrained_outputs.json").read_text())
RECORDS = [row for path in sorted((ROOT / "results").glob("*.jsonl")) for row in read_records(path)]

KINDS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("l11-gtsrb", "l9-gtsrb", "l7-gtsrb", "l5-gtsrb", "l3-gtsrb"), RestorationNet),
    "dong-gtsrb": DongNet,
    "sign-gtsrb": SignNet,
    "fused-gtsrb": FusedClassifier,
}
PARAMETERS = {
    **{f"{name.lower()}-gtsrb": row.parameters for name, row in TABLE_1.items()},
    "sign-gtsrb": CLASSIFIER_PARAMETERS,
    "fused-gtsrb": FUSED_PARAMETERS,
}
LARGEST_PACKAGE = 12_000_000
LARGEST_CHANGE_GREY = 0.3
LARGEST_CHANGE_OF_LOGITS = 0.05


def packaged(name: str) -> Path:
    return Path(str(files("steadylens") / "weights" / f"{name}.safetensors"))


def images(seed: int) -> Tensor:
    """Returns smooth images under noise, (4, 3, 48, 48), of which the first has none."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(48, 48), mode="bilinear", align_corners=False)
    strengths = torch.tensor([0.0, 0.02, 0.05, 0.15]).view(4, 1, 1, 1)
    return (smooth + strengths * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def rounded_to(value: Tensor, generator: torch.Generator) -> Tensor:
    """Returns some tensor that rounds to `value` in float16."""
    half = value.half()
    step = half.abs().nextafter(torch.tensor(float("inf")).half()).float() - half.abs().float()
    moved = value + step * (torch.rand(value.shape, generator=generator) - 0.5)
    found = torch.where(moved.half() == half, moved, value)
    assert not torch.equal(found, value)
    assert torch.equal(found.half(), half)
    return found


# Every net is there, ready, and the one that was packaged.


def test_every_name_has_its_file_and_every_file_its_name() -> None:
    assert sorted(path.stem for path in packaged("").parent.glob("*.safetensors")) == sorted(PRETRAINED)
    assert sorted(PACKAGER["SOURCES"]) == sorted(PRETRAINED) == sorted(OUTPUTS)


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_name_gives_a_net_that_is_ready_for_use(name: str) -> None:
    net = load(name)
    assert type(net) is KINDS[name]
    assert not any(part.training for part in net.modules())
    for value in net.state_dict().values():
        assert (value.dtype, value.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_net_has_the_papers_number_of_parameters(name: str) -> None:
    assert sum(parameter.numel() for parameter in load(name).parameters()) == PARAMETERS[name]
    assert card(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_net_makes_of_the_fixed_image_what_it_did_when_it_was_packaged(name: str) -> None:
    found = PACKAGER["outputs"](load(name))
    assert found == pytest.approx(OUTPUTS[name], rel=1e-3, abs=1e-3), "run docs/package_weights.py"
    assert max(OUTPUTS[name]) - min(OUTPUTS[name]) > 0.2  # the values tell something


@pytest.mark.parametrize("name", [name for name in PRETRAINED if KINDS[name] is RestorationNet])
def test_a_packaged_restorer_takes_noise_out_of_images_of_any_size(name: str) -> None:
    place = torch.linspace(0.2, 0.8, 90)
    clean = (place[:60, None] + place[None, :]).div(2).expand(1, 3, 60, 90)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 20 / GREY_LEVELS
    with torch.inference_mode():
        restored = load(name)(clean + noise)
    assert restored.shape == clean.shape
    assert (restored - clean).square().mean() < noise.square().mean() / 2


def test_the_packaged_classifiers_tell_the_43_signs_apart() -> None:
    for name in ("sign-gtsrb", "fused-gtsrb"):
        assert len(card(name).classes) == 43
        assert load(name)(images(0)).shape == (4, 43)


def test_every_call_gives_a_net_of_its_own() -> None:
    first, second = load("l3-gtsrb"), load("l3-gtsrb")
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0


def test_the_names_stand_at_the_top_of_the_package() -> None:
    assert steadylens.load is load
    assert steadylens.card is card


def test_loading_needs_no_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*_arguments, **_settings): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import steadylens, sys\n"
        "steadylens.load('l3-gtsrb')\n"
        "steadylens.card('l3-gtsrb').markdown()\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# They are small, and rounding them does no harm.


def test_the_files_are_small_and_hold_half_precision() -> None:
    assert sum(packaged(name).stat().st_size for name in PRETRAINED) <= LARGEST_PACKAGE
    for name in PRETRAINED:
        with safe_open(packaged(name), framework="pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", PRETRAINED)
def test_whatever_net_was_rounded_to_the_packaged_one_gives_nearly_the_same(name: str, seed: int) -> None:
    net, other = load(name), load(name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.copy_(rounded_to(value, generator))
        change = (net(images(seed)) - other(images(seed))).abs().max()
    if isinstance(net, SignNet | FusedClassifier):
        assert 0 < change < LARGEST_CHANGE_OF_LOGITS
    else:
        assert 0 < change < LARGEST_CHANGE_GREY / GREY_LEVELS


# What is said about them is what was measured.


def told(name: str) -> list[Measurement]:
    return list(card(name).figures)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_figures_of_a_card_are_those_of_the_committed_records(name: str) -> None:
    _, network = PACKAGER["SOURCES"][name]
    origins = {row.provenance for row in told(name)}
    rows = [row for row in RECORDS if row.provenance in origins]
    assert told(name) == PACKAGER["figures_of"](network, rows)
    assert told(name)


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_card_tells_where_the_net_comes_from(name: str) -> None:
    about = card(name)
    assert about.name == name
    assert about.data.startswith("gtsrb")
    assert {row.provenance.recipe for row in about.figures} == {about.recipe}
    assert {row.provenance.seed for row in about.figures} == {about.seed}
    assert about.commit
    assert dict(about.versions).keys() >= {"python", "torch", "steadylens"}
    assert "float16" in about.about["stored_as"]
    assert about.licence == "MIT"


def test_the_packager_refuses_records_of_another_run(tmp_path: Path) -> None:
    row = next(row for row in RECORDS if isinstance(row, Accuracy))
    origin = row.provenance
    for recipe, seed in ((f"not {origin.recipe}", origin.seed), (origin.recipe, origin.seed + 1)):
        about = {"recipe": recipe, "seed": seed, "data": origin.data.rpartition(" (")[0]}
        save_model(tmp_path / "net.safetensors", RestorationNet(depth=3), about=about)
        with pytest.raises(SettingError, match="is of another run than the records"):
            PACKAGER["package"](tmp_path / "net.safetensors", tmp_path / "packaged.safetensors", [row])
        assert not (tmp_path / "packaged.safetensors").exists()


def test_the_packager_takes_the_rows_about_one_network_and_no_drawings() -> None:
    further = [replace(row, provenance=replace(row.provenance, seed=9)) for row in RECORDS]
    found = PACKAGER["figures_of"]("original", first_run([*RECORDS, *further]))
    assert {row.provenance.seed for row in found} == {RECORDS[0].provenance.seed}
    assert {type(row).__name__ for row in found} >= {"Accuracy", "Comparison", "Stability", "Cost"}
    assert all("original" in repr(row) for row in found)
    assert len(json.dumps([PACKAGER["encode"](row) for row in found])) < 100_000


# A path works as well; what cannot be loaded is refused.


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_of_a_file_works_as_well(tmp_path: Path, kind: type[str | Path]) -> None:
    net = RestorationNet(depth=3).eval()
    path = tmp_path / "mine.safetensors"
    save_model(path, net, about={"seed": 3, "classes": ["a"]})
    with torch.inference_mode():
        assert torch.equal(load(kind(path))(images(0)), net(images(0)))
    about = card(kind(path))
    assert (about.name, about.seed, about.recipe, about.figures) == ("mine", 3, "", ())


def test_an_unknown_name_is_refused_with_the_list_of_names() -> None:
    for asked in ("l13-gtsrb", "L11", "", "weights/l11-gtsrb"):
        with pytest.raises(SettingError) as caught:
            load(asked)
        sentence = str(caught.value)
        assert sentence.startswith(f"there is no trained net '{asked}'; choose one of l11-gtsrb, l9-gtsrb")
        assert all(name in sentence for name in PRETRAINED)


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("place", [-1, -2000, -5001])
def test_a_packaged_file_with_one_wrong_bit_in_its_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    (tmp_path / "weights").mkdir()
    copied = Path(shutil.copy(packaged("l3-gtsrb"), tmp_path / "weights"))
    monkeypatch.setattr(pretrained, "files", lambda _package: tmp_path)
    assert isinstance(load("l3-gtsrb"), RestorationNet)
    content = bytearray(copied.read_bytes())
    content[place] ^= 1
    copied.write_bytes(content)
    for read in (load, card):
        with pytest.raises(CheckpointError, match="its weights do not fit their checksum; write it again"):
            read("l3-gtsrb")


def test_a_packaged_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l3-gtsrb.safetensors"
    path.write_bytes(packaged("l3-gtsrb").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load(path)


def test_a_packaged_net_may_be_named_by_a_path() -> None:
    assert steadylens.card(Path("l3-gtsrb")).name == "l3-gtsrb"
