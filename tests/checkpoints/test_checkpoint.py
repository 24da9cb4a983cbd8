"""A file gives back the same net, or one clear sentence; a write that fails leaves the old file."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steadylens.checkpoints import checkpoint
from steadylens.checkpoints.checkpoint import load_model, load_state, save_model, save_state
from steadylens.errors import CheckpointError, SettingError
from steadylens.nets.architecture import KINDS, build, describe
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.facts import RESTORING
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet

ABOUT: dict[str, Any] = {"stage": "a stage", "seed": 3, "curve": [[1, 0.5, 0.001]], "validation": {}}


ARCHITECTURE = {"kind": "RestorationNet", "depth": 3, "channels": 3, "padding": "zeros"}


def nested() -> FusedClassifier:
    return FusedClassifier(RestorationNet(depth=3), FusedClassifier(GaussianSmoothing(), SignNet(classes=4)))


NETS: dict[str, Callable[[], nn.Module]] = {
    **{f"L{depth}": partial(RestorationNet, depth=depth) for depth in (11, 9, 7, 5, 3)},
    "L3 on reflected borders": lambda: RestorationNet(depth=3, padding="reflect"),
    "Dong": DongNet,
    "Dong on reflected borders": lambda: DongNet(padding="reflect"),
    "smoothing": lambda: GaussianSmoothing(sigma_pixels=1.3),
    "identity": nn.Identity,
    "sign net": lambda: SignNet(classes=7),
    "standardizing sign net": lambda: SignNet(classes=7, standardize=True),
    "fused": nested,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Returns the file of a small net."""
    path = tmp_path / "net.safetensors"
    save_model(path, RestorationNet(depth=3), about=ABOUT)
    return path


def write(
    path: Path, tensors: dict[str, Tensor], *, architecture: object = ARCHITECTURE, about: object = ABOUT
) -> None:
    """Writes a file as `save_model` does, of whatever content."""
    plain = {"format": 1, "kind": "model", "architecture": architecture, "about": about}
    save_file(tensors, path, metadata={"steadylens": json.dumps(plain)})


def weights() -> dict[str, Tensor]:
    return RestorationNet(depth=3).state_dict()


def refusal(path: Path) -> str:
    """Returns the sentence with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_a_net_comes_back_with_the_same_outputs(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    net = make().eval()
    for part in net.modules():
        if isinstance(part, SignNet):
            part.mean.mul_(1.25)  # buffers are kept, too
    save_model(tmp_path / "a.safetensors", net, about=ABOUT)
    loaded, about = load_model(str(tmp_path / "a.safetensors"))
    assert about == ABOUT
    assert type(loaded) is type(net)
    assert not loaded.training
    images = torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(loaded(images), net(images))


@pytest.mark.parametrize("net", [RestorationNet(depth=5, channels=1), DongNet(4)], ids=["L5", "Dong"])
def test_the_number_of_channels_is_kept(tmp_path: Path, net: RestorationNet | DongNet) -> None:
    save_model(tmp_path / "a.safetensors", net, about={})
    loaded, _ = load_model(tmp_path / "a.safetensors")
    images = torch.rand(1, net.channels, 20, 17)
    with torch.inference_mode():
        assert torch.equal(loaded(images), net.eval()(images))


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_a_description_is_plain_and_builds_the_same_architecture(make: Callable[[], nn.Module]) -> None:
    net = make()
    description = json.loads(json.dumps(describe(net)))
    assert describe(build(description)) == describe(net)
    assert str(build(description)) == str(net)


def test_the_same_net_gives_the_same_bytes(tmp_path: Path) -> None:
    net = nested()
    for name in ("a", "b"):
        save_model(tmp_path / name, net, about=ABOUT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_safetensors_reader_finds_the_weights(saved: Path) -> None:
    loaded, _ = load_model(saved)
    found = load_file(saved)
    assert found.keys() == loaded.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in loaded.state_dict().items())


def test_a_restorer_that_stands_in_two_places_is_kept_in_both(tmp_path: Path) -> None:
    restorer = RestorationNet(depth=3)
    net = FusedClassifier(restorer, FusedClassifier(restorer, SignNet(classes=4))).eval()
    save_model(tmp_path / "a.safetensors", net, about={})
    images = torch.rand(1, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "a.safetensors")[0](images), net(images))


def test_saving_changes_nothing_in_the_net(tmp_path: Path) -> None:
    net = SignNet(classes=4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    save_model(tmp_path / "a.safetensors", net, about={})
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("module", [nn.Linear(2, 2), FusedClassifier(nn.Identity(), nn.Linear(2, 2))])
def test_a_foreign_net_cannot_be_saved(tmp_path: Path, module: nn.Module) -> None:
    with pytest.raises(SettingError, match="a Linear cannot be saved; save its state_dict yourself"):
        save_model(tmp_path / "a.safetensors", module, about={})
    assert list(tmp_path.iterdir()) == []


def test_a_state_comes_back(tmp_path: Path) -> None:
    tensors = {"a.b": torch.rand(2, 3), "step": torch.tensor(3.0), "generator": torch.get_rng_state()}
    plain = {"step": 3, "curve": [[1, 0.1, 1e-300]], "key": "abc"}
    save_state(tmp_path / "a.training", tensors, plain)
    found, about = load_state(tmp_path / "a.training")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert {name: about[name] for name in plain} == plain


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.safetensors") == f"there is no file {tmp_path / 'none.safetensors'}"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 200, 5000, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    assert "damaged or no safetensors file" in refusal(saved)


def test_a_text_is_refused(saved: Path) -> None:
    saved.write_text("weights, as it were\n" * 100)
    assert "damaged or no safetensors file" in refusal(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(saved: Path, metadata: dict[str, str] | None) -> None:
    save_file(weights(), saved, metadata=metadata)
    assert refusal(saved) == (
        f"{saved} was not written by steadylens and does not say which architecture its weights belong to; "
        f"name the library's model along with them, as in timm:NAME --weights {saved}"
    )


def test_what_torch_saved_is_refused_with_the_way_to_use_it(saved: Path) -> None:
    torch.save(weights(), saved)
    assert refusal(saved).startswith(f"{saved} was written by torch.save and does not say which architecture")
    assert refusal(saved).endswith(f"along with them, as in timm:NAME --weights {saved}")


def test_a_state_is_no_model_and_a_model_no_state(saved: Path, tmp_path: Path) -> None:
    save_state(tmp_path / "a.training", weights(), {})
    assert "is no model file of format 1" in refusal(tmp_path / "a.training")
    with pytest.raises(CheckpointError, match="is no training file of format 1"):
        load_state(saved)


@pytest.mark.parametrize(
    "plain", ["[]", "3", '{"format": 2, "kind": "model"}', '{"kind": "model"}', '{"format": 1}', "null"]
)
def test_another_kind_or_version_is_refused(saved: Path, plain: str) -> None:
    save_file(weights(), saved, metadata={"steadylens": plain})
    assert "holds another kind or version" in refusal(saved)


@pytest.mark.parametrize("plain", ["", "{", "[" * 100_000, "{'format': 1}"])
def test_data_that_is_no_json_is_refused(saved: Path, plain: str) -> None:
    save_file(weights(), saved, metadata={"steadylens": plain})
    assert "damaged" in refusal(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    tensors = weights()
    tensors["layers.2.bias"][5] = value
    write(saved, tensors)
    assert "layers.2.bias holds values that are not finite; train the net again" in refusal(saved)


def test_an_unknown_architecture_is_refused_with_the_way_out(saved: Path) -> None:
    write(saved, weights(), architecture={"kind": "Transformer"})
    assert "the architecture 'Transformer' is unknown to this version; update steadylens" in refusal(saved)


@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"kind": []},
        {**ARCHITECTURE, "depth": 5},
        {**ARCHITECTURE, "depth": 4},
        {**ARCHITECTURE, "depth": [3]},
        {**ARCHITECTURE, "channels": 1},
        {**ARCHITECTURE, "channels": 10**30},
        {**ARCHITECTURE, "channels": "3"},
        {**ARCHITECTURE, "padding": None},
        {**ARCHITECTURE, "width": 3},
        {"kind": "SignNet", "classes": 2},
        {"kind": "Identity"},
        {"kind": "GaussianSmoothing", "sigma_pixels": 1e300},
        {"kind": "GaussianSmoothing", "sigma_pixels": "wide"},
        {"kind": "FusedClassifier", "restorer": {"kind": "Identity"}},
        {"kind": "FusedClassifier", "restorer": 3, "classifier": []},
        {"kind": "FusedClassifier", "restorer": {"kind": "Identity"}, "classifier": {"depth": 3}},
        {"kind": "FusedClassifier", "restorer": {"kind": "Identity"}, "classifier": None},
    ],
    ids=repr,
)
def test_an_architecture_that_does_not_fit_is_refused(saved: Path, architecture: dict[str, Any]) -> None:
    write(saved, weights(), architecture=architecture)
    assert "the weights do not fit the architecture" in refusal(saved)


def test_an_architecture_of_thousands_of_nets_is_refused_before_they_are_built(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("a net is built")

    architecture: dict[str, Any] = ARCHITECTURE
    for _ in range(10):
        architecture = {"kind": "FusedClassifier", "restorer": architecture, "classifier": architecture}
    write(saved, weights(), architecture=architecture)
    monkeypatch.setattr(checkpoint, "build", refuse)
    assert "more than 64 parts" in refusal(saved)


def test_foreign_code_that_an_architecture_names_is_refused_without_a_question(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", asked.append)
    config = {"model_type": "bert", "auto_map": {"AutoModelForImageClassification": "someone/net--code.Net"}}
    write(saved, weights(), architecture={"kind": "transformers", "size": 8, "config": config})
    assert "there is no classifier of kind transformers" in refusal(saved)
    assert not asked


@pytest.mark.parametrize("part", [{"architecture": []}, {"architecture": None}, {"about": "text"}])
def test_a_file_without_architecture_or_provenance_is_refused(saved: Path, part: dict[str, Any]) -> None:
    write(saved, weights(), **part)
    assert "lacks the architecture or the data about the net" in refusal(saved)


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors["layers.0.weight"]


def reshape(tensors: dict[str, Tensor]) -> None:
    tensors["layers.0.weight"] = tensors["layers.0.weight"].transpose(0, 1).contiguous()


def add(tensors: dict[str, Tensor]) -> None:
    tensors["layers.9.weight"] = torch.zeros(1)


@pytest.mark.parametrize("change", [drop, reshape, add])
def test_wrong_shapes_and_names_are_refused(saved: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = weights()
    change(tensors)
    write(saved, tensors)
    assert "the weights do not fit the architecture" in refusal(saved)


def test_a_flipped_bit_of_the_header_never_gives_another_net(saved: Path) -> None:
    original = saved.read_bytes()
    (size,) = struct.unpack("<Q", original[:8])
    expected = weights().keys()
    for place in range(0, 8 + size, 5):
        mutated = bytearray(original)
        mutated[place] ^= 1 << place % 7
        saved.write_bytes(mutated)
        try:
            net, _ = load_model(saved)
        except CheckpointError:
            continue
        assert net.state_dict().keys() == expected


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Returns a file with one to three changes, most of them in the header."""
    changed = bytearray(content)
    (size,) = struct.unpack("<Q", content[:8])
    for _ in range(chance.randint(1, 3)):
        end = chance.choice([8, 8 + size, 8 + size, 8 + size, len(content)])
        place, length = chance.randrange(end), chance.randint(1, 12)
        match chance.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[place : place + length] = b""
            case 2:
                changed[place:place] = chance.choice([b"9", b"-", b'"', b"{}", b"[", b"null", b"\xff\x00"])
            case 3:
                changed[place : place + length] = chance.randbytes(length)
            case 4:
                other = chance.randrange(end)
                changed[place : place + length] = changed[other : other + length]
            case _:
                del changed[place + length :]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [NETS["L3"], NETS["smoothing"]], ids=["L3", "smoothing"])
def test_a_mutated_file_gives_a_valid_net_or_a_clear_sentence(
    tmp_path: Path, make: Callable[[], nn.Module], seed: int
) -> None:
    path = tmp_path / "a.safetensors"
    save_model(path, make(), about=ABOUT)
    original, chance = path.read_bytes(), random.Random(seed)  # noqa: S311 - no secret
    refusals = []
    for _ in range(150):
        path.write_bytes(mutated(original, chance))
        try:
            net, about = load_model(path)
        except CheckpointError as error:
            refusals.append(str(error))
        else:
            assert all(value.isfinite().all() for value in net.state_dict().values())
            save_model(path, net, about=about)
            assert describe(load_model(path)[0]) == describe(net)
    assert len(refusals) > 50
    assert all(str(path) in sentence and "\n" not in sentence for sentence in refusals)


def test_a_disk_that_fills_up_leaves_the_old_file_whole_and_no_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_model(old, RestorationNet(depth=3), about=ABOUT)
    before = old.read_bytes()
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from steadylens.checkpoints.checkpoint import save_model\n"
        "from steadylens.errors import StorageError\n"
        "from steadylens.nets.restoration import RestorationNet\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        f"for path in {[str(old), str(new)]}:\n"
        "    try:\n"
        "        save_model(Path(path), RestorationNet(depth=5), about={})\n"
        "    except StorageError as error:\n"
        "        print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    way_out = "File too large; free some space or choose another place"
    assert run.stdout.splitlines() == [f"cannot write {path}: {way_out}" for path in (old, new)]
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == before
    assert load_model(old)[1] == ABOUT


class Wrongly(nn.Module):
    """A net whose config forgets an argument that the weights depend on."""

    kind, task = "tests.Wrongly", RESTORING

    def __init__(self, maps: int = 3, *, config: object = None) -> None:
        super().__init__()
        self.layer, self.given = nn.Conv2d(3, maps, 1), config

    def config(self) -> object:
        return self.given


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "layer.weight is .* where .* is needed"),
        ({"map": 4}, "unexpected keyword argument 'map'"),
        ({"maps": torch.tensor(4)}, "not JSON serializable"),
        ({"maps": "4"}, r"\("),
    ],
)
def test_a_net_that_its_config_does_not_make_again_is_not_saved(
    config: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "tests.Wrongly", Wrongly)
    with pytest.raises(
        SettingError, match=rf"a Wrongly cannot be saved: what its config\(\) gives.*{reason}"
    ):
        save_model(tmp_path / "net.safetensors", Wrongly(4, config=config), about={})
    save_model(tmp_path / "net.safetensors", Wrongly(4, config={"maps": 4}), about={})
    assert isinstance(load_model(tmp_path / "net.safetensors")[0], Wrongly)


def test_what_is_known_about_a_net_must_be_plain_data(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"net\.safetensors cannot be written as JSON"):
        save_model(tmp_path / "net.safetensors", RestorationNet(3), about={"data": Path()})
    assert not list(tmp_path.iterdir())


def test_a_pair_that_is_not_frozen_stays_so(tmp_path: Path) -> None:
    for frozen in (True, False):
        pair = FusedClassifier(RestorationNet(3), SignNet(4), frozen=frozen)
        save_model(tmp_path / "pair.safetensors", pair, about={})
        again = load_model(tmp_path / "pair.safetensors")[0]
        assert isinstance(again, FusedClassifier)
        assert again.frozen is frozen


def test_a_packaged_net_is_loaded_by_its_name_with_what_is_known_about_it() -> None:
    net, about = load_model("l3-gtsrb")
    assert isinstance(net, RestorationNet)
    assert about["licence"] == "MIT"
    assert about["data"] == "gtsrb:gtsrb"
