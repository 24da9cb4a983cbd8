"""The nets that ship with the package load by name, are those that were measured, and are small.

What a command line calls a net is opened, or refused in one sentence.
"""

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
import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision import models  # type: ignore[import-untyped]

import steadylens
from steadylens.checkpoints import checkpoint
from steadylens.checkpoints.card import card
from steadylens.checkpoints.checkpoint import PRETRAINED, TrainingInfo, save_model
from steadylens.checkpoints.loading import (
    LoadedNet,
    check_classes,
    check_order,
    load,
    load_classifier,
    load_net,
)
from steadylens.errors import CheckpointError, SettingError
from steadylens.images.preprocessing import Fit, Preprocessing, PreprocessingOptions
from steadylens.images.tensors import GREY_LEVELS
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.facts import RESTORING
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.nets.restoration_unet import RestorationUNet
from steadylens.records import Accuracy, Measurement, read_records
from steadylens.report.tables import first_run
from tests.paper import CLASSIFIER_PARAMETERS, TABLE_1

ROOT = Path(__file__).parents[2]


PACKAGER: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "package_weights.py"), run_name="packager")

OUTPUTS: dict[str, list[float]] = json.loads((ROOT / "tests" / "pretrained_outputs.json").read_text())

RECORDS = [row for path in sorted((ROOT / "results").glob("*.jsonl")) for row in read_records(path)]


KINDS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("l11-gtsrb", "l9-gtsrb", "l7-gtsrb", "l5-gtsrb", "l3-gtsrb"), RestorationNet),
    "unet-gtsrb": RestorationUNet,
    "unet-photos": RestorationUNet,
    "unet-camera": RestorationUNet,
    "dong-gtsrb": DongNet,
    "sign-gtsrb": SignNet,
    "fused-gtsrb": FusedClassifier,
}


PARAMETERS = {
    **{f"{name.lower()}-gtsrb": row.parameters for name, row in TABLE_1.items()},
    "unet-gtsrb": 449_216,
    "unet-photos": 449_216,
    "unet-camera": 449_216,
    "sign-gtsrb": CLASSIFIER_PARAMETERS,
    "fused-gtsrb": 449_216 + CLASSIFIER_PARAMETERS,
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


def told(name: str) -> list[Measurement]:
    return list(card(name).info.figures)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_figures_of_a_card_are_those_of_the_committed_records(name: str) -> None:
    _, network = PACKAGER["SOURCES"][name]
    origins = {row.provenance for row in told(name)}
    rows = [row for row in RECORDS if row.provenance in origins]
    assert told(name) == PACKAGER["figures_of"](network, rows)
    assert told(name)


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_card_tells_where_the_net_comes_from(name: str) -> None:
    assert card(name).name == name
    about = card(name).info
    kind, _, folder = about.data.partition(":")
    assert kind == ("gtsrb" if name.endswith("-gtsrb") else "photographs")
    assert "/" not in folder  # where the data lay is nobody's concern
    assert bool(about.attribution) == (not name.endswith("-gtsrb"))
    assert {row.provenance.recipe for row in about.figures} == {about.recipe}
    assert {row.provenance.seed for row in about.figures} == {about.seed}
    assert about.commit
    assert dict(about.versions).keys() >= {"python", "torch", "steadylens"}
    assert "float16" in about.stored_as
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


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_of_a_file_works_as_well(tmp_path: Path, kind: type[str | Path]) -> None:
    net = RestorationNet(depth=3).eval()
    path = tmp_path / "mine.safetensors"
    save_model(path, net, about={"seed": 3, "classes": ["a"]})
    with torch.inference_mode():
        assert torch.equal(load(kind(path))(images(0)), net(images(0)))
    found = card(kind(path))
    assert (found.name, found.info.seed, found.info.recipe, found.info.figures) == ("mine", 3, "", ())


@pytest.mark.parametrize("about", [{"seconds": "3 h"}, {"curve": [0.4, 0.2]}, {"validation": 0.9}], ids=repr)
def test_a_net_is_loaded_whatever_else_its_file_says(tmp_path: Path, about: dict[str, Any]) -> None:
    path = tmp_path / "mine.safetensors"
    save_model(path, RestorationNet(depth=3), about=about)
    assert isinstance(load(path), RestorationNet)
    assert steadylens.restorer_of(path).channels == 3
    with pytest.raises(CheckpointError, match="the data about mine are not those of this version"):
        load_net(path)


def test_an_unknown_name_is_refused_with_the_list_of_names() -> None:
    for asked in ("l13-gtsrb", "L11", "", "weights/l11-gtsrb"):
        with pytest.raises(SettingError) as caught:
            load(asked)
        sentence = str(caught.value)
        assert sentence.startswith(
            f"there is no net '{asked}'; give a .safetensors file or one of l11-gtsrb, l9-gtsrb"
        )
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
    monkeypatch.setattr(checkpoint, "files", lambda _package: tmp_path)
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


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Returns the weights of a small timm model for three classes."""
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def body() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_restorer_is_opened_by_its_packaged_name() -> None:
    opened = load_net("l3-gtsrb", task=RESTORING)
    assert isinstance(opened.module, RestorationNet)
    assert (opened.name, opened.module.depth) == ("l3-gtsrb", 3)
    assert opened.seconds > 0


@pytest.mark.parametrize("name", ["net.safetensors", "net.weights", "net"])
def test_a_restorer_is_opened_from_a_file_of_any_name(name: str, tmp_path: Path) -> None:
    save_model(tmp_path / name, GaussianSmoothing(), about={"seconds": 3.5})
    opened = load_net(tmp_path / name, task=RESTORING)
    assert isinstance(opened.module, GaussianSmoothing)
    assert (opened.name, opened.seconds) == ("net", 3.5)


@pytest.mark.parametrize("source", ["l12-gtsrb", "absent", "timm", "imagenet:resnet18", ""])
def test_an_unknown_name_is_refused_with_what_there_is(source: str) -> None:
    with pytest.raises(
        SettingError,
        match=r"there is no net '.*'; give a \.safetensors file or one of l11-.*, .*unet-camera$",
    ):
        load_net(source, task=RESTORING)
    for weights in (None, Path("net.pth")):
        with pytest.raises(SettingError, match=r"there is no net '.*'; .*, or timm:NAME"):
            load_classifier(source, weights=weights)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.safetensors"):
        load_net(tmp_path / "absent.safetensors", task=RESTORING)


def test_a_classifier_is_no_restorer_and_a_restorer_no_classifier() -> None:
    with pytest.raises(
        SettingError, match="sign-gtsrb holds a SignNet, where a restorer is needed; give one such as l11"
    ):
        load_net("sign-gtsrb", task=RESTORING)
    with pytest.raises(SettingError, match="l3-gtsrb holds a RestorationNet, where a classifier is needed"):
        load_classifier("l3-gtsrb")


def test_a_packaged_classifier_brings_its_size_and_its_classes() -> None:
    opened = load_classifier("sign-gtsrb")
    assert isinstance(opened.module, SignNet)
    assert (opened.size, len(opened.class_names)) == (48, 43)


def test_a_classifier_of_a_library_is_opened_with_weights_and_size(weights: Path) -> None:
    opened = load_classifier("timm:test_resnet", weights=weights, options=PreprocessingOptions(size=40))
    assert isinstance(opened.module, PreparedClassifier)
    assert (opened.name, opened.size, opened.class_names) == ("timm:test_resnet", 40, ())
    assert opened.module(torch.rand(1, 3, 40, 40)).shape == (1, 3)


def test_a_pair_of_a_library_comes_with_its_size(weights: Path, tmp_path: Path) -> None:
    alone = load_classifier("timm:test_resnet", weights=weights, options=PreprocessingOptions(size=40))
    save_model(
        tmp_path / "pair", FusedClassifier(nn.Identity(), alone.module), about={"classes": ["a", "b", "c"]}
    )
    opened = load_classifier(tmp_path / "pair")
    assert (opened.size, opened.class_names) == (40, ("a", "b", "c"))
    assert opened.pair() is opened.module


def test_a_mean_and_a_deviation_of_ones_own_replace_those_of_the_library(weights: Path) -> None:
    usual = load_classifier("timm:test_resnet", weights=weights, options=PreprocessingOptions(size=32)).module
    changed = load_classifier(
        "timm:test_resnet",
        weights=weights,
        options=PreprocessingOptions(size=32, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.2)),
    ).module
    assert isinstance(usual, PreparedClassifier)
    images = torch.rand(2, 3, 32, 32)
    numbers = torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.5, 0.2]]).view(2, 1, 3, 1, 1)
    torch.testing.assert_close(changed(images), usual.body((images - numbers[0]) / numbers[1]))


def test_a_classifier_tells_how_photographs_are_fitted_and_may_be_told(weights: Path) -> None:
    usual = load_classifier("timm:test_resnet", weights=weights, options=PreprocessingOptions(size=40))
    assert str(usual.fit) == "crop:42"
    for source, file in (("timm:test_resnet", weights), ("sign-gtsrb", None)):
        assert load_classifier(
            source, weights=file, options=PreprocessingOptions(fit=Fit(keeps_shape=True))
        ).fit == Fit(keeps_shape=True)
    assert load_classifier("sign-gtsrb").fit == Fit()


def test_the_fit_stands_in_the_file_of_a_pair(weights: Path, tmp_path: Path) -> None:
    alone = load_classifier(
        "timm:test_resnet", weights=weights, options=PreprocessingOptions(size=40, fit=Fit(keeps_shape=True))
    )
    save_model(tmp_path / "pair", FusedClassifier(nn.Identity(), alone.module), about={})
    assert load_classifier(tmp_path / "pair").fit == Fit(keeps_shape=True)
    told = load_classifier(tmp_path / "pair", options=PreprocessingOptions(fit=Fit()))
    save_model(tmp_path / "again", told.module, about={})
    assert load_classifier(tmp_path / "again").fit == told.fit == Fit()


def test_the_fit_of_a_net_of_this_package_stands_in_the_data_about_it(tmp_path: Path) -> None:
    save_model(tmp_path / "net", SignNet(classes=3), about={"fit": "crop:52"})
    assert load_classifier(tmp_path / "net").fit == Fit(keeps_shape=True, side=52)
    with pytest.raises(SettingError, match="of which no 48 can be cut out"):
        load_classifier(tmp_path / "net", options=PreprocessingOptions(fit=Fit(side=40)))


def test_weights_are_wanted_where_there_are_none_and_only_there(weights: Path) -> None:
    for source in ("timm:test_resnet", "torchvision:resnet18"):
        with pytest.raises(
            SettingError, match=f"{source} has random weights; give its own by --weights FILE"
        ):
            load_classifier(source)
    for source in ("sign-gtsrb", "net.pt2", "transformers:somewhere"):
        with pytest.raises(SettingError, match=rf"{source} has its own weights; leave out .*net\.pth"):
            load_classifier(source, weights=weights)


def test_one_of_mean_and_deviation_is_not_enough(weights: Path) -> None:
    with pytest.raises(SettingError, match="give both mean and std, or neither"):
        load_classifier(
            "timm:test_resnet", weights=weights, options=PreprocessingOptions(mean=(0.5, 0.5, 0.5))
        )


def test_a_net_of_this_package_takes_no_other_size_or_normalisation() -> None:
    with pytest.raises(SettingError, match="sign-gtsrb has its own size, mean and std; leave them out"):
        load_classifier("sign-gtsrb", options=PreprocessingOptions(size=64))


def test_a_size_that_a_classifier_cannot_read_is_refused_at_once(weights: Path) -> None:
    torch.save(models.get_model("squeezenet1_1", num_classes=3).state_dict(), weights)
    with pytest.raises(
        SettingError,
        match=r"torchvision:squeezenet1_1 does not classify images of 8x8 pixels: .*; give another",
    ):
        load_classifier("torchvision:squeezenet1_1", weights=weights, options=PreprocessingOptions(size=8))


def opened(classes: int, *names: str) -> LoadedNet:
    layers = nn.Sequential(body(), nn.Linear(3, classes))
    module = PreparedClassifier(layers, Preprocessing(size=8), class_names=names)
    return LoadedNet(name="mine", module=module)


def test_a_restorer_before_a_classifier_is_a_pair() -> None:
    front = LoadedNet(name="L3", module=RestorationNet(depth=3), info=TrainingInfo(seconds=2))
    pair = front.in_front_of(opened(2, "a", "b"))
    assert (pair.name, pair.size, pair.class_names, pair.seconds) == ("behind L3", 8, ("a", "b"), 2)
    assert pair.pair()(torch.rand(1, 3, 8, 8)).shape == (1, 2)
    with pytest.raises(SettingError, match="mine holds a PreparedClassifier, no fused classifier"):
        opened(2).pair()


def test_another_number_of_classes_is_refused() -> None:
    check_classes(opened(2), ("a", "b"), "folder:x")
    with pytest.raises(
        SettingError, match="mine tells 2 classes apart, folder:x has 3; use it with the data that"
    ):
        check_classes(opened(2), ("a", "b", "c"), "folder:x")


def test_the_same_classes_in_another_order_are_refused() -> None:
    assert check_order(opened(2, "a", "b"), ("a", "b"), "folder:x") == ""
    assert check_order(opened(2), ("b", "a"), "folder:x") == ""
    note = check_order(opened(2, "stop", "yield"), ("b", "a"), "folder:x")
    assert note.startswith("mine and folder:x have no class name in common ('stop', 'b'), so it is not known")
    with pytest.raises(
        SettingError, match="class 0 is 'a' for mine and 'b' in folder:x; give the names in the classifier's"
    ):
        check_order(opened(2, "a", "b"), ("b", "a"), "folder:x")


def test_one_class_that_both_know_by_different_numbers_is_refused() -> None:
    check_order(opened(3, "circle", "square", "stop"), ("circle", "square", "halt"), "folder:x")
    with pytest.raises(SettingError, match="class 1 is 'square' for mine and 'triangle' in folder:x"):
        check_order(opened(3, "circle", "square", "triangle"), ("square", "triangle", "zcircle"), "folder:x")
