"""A stage that was cut off, even killed, ends with the same file; one of another run is refused."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from steadylens.checkpoints.checkpoint import load_model, load_state, save_state
from steadylens.cli import main
from steadylens.data.datasets import Dataset, ImageSet, load_dataset
from steadylens.errors import CheckpointError, SettingError
from steadylens.training import recipes
from steadylens.training.fusing import fine_tune
from steadylens.training.objectives import LogSquaredError
from steadylens.training.recipes import SMOKE
from steadylens.training.run import Refinement
from steadylens.training.stages import train_classifier
from tests.mapped import mapped
from tests.tiny_runs import STEPS, TINY, Notebook, run_of
from tests.training.tiny_stages import RESTORER, Stage, each_stage, sign_net


def assert_same_file(path: Path, other: Path) -> None:
    """Says that two files hold the same net, trained in the same way, whenever and however long."""
    (net, about), (other_net, other_about) = load_model(path), load_model(other)
    weights, other_weights = net.state_dict(), other_net.state_dict()
    assert weights.keys() == other_weights.keys()
    assert [name for name, value in weights.items() if not torch.equal(value, other_weights[name])] == []
    for name in ("seconds", "commit"):
        del about[name], other_about[name]
    assert about == other_about


@each_stage
def test_a_stage_that_was_interrupted_ends_as_if_it_had_not_been(
    tiny_data: Dataset, tmp_path: Path, stage: Stage
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    stage(run_of(tiny_data, Notebook(), seconds=1000), whole)
    with pytest.raises(KeyboardInterrupt):
        stage(run_of(tiny_data, Notebook(limit=3)), cut)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cut.safetensors.training",
        "whole.safetensors",
    ]
    again = Notebook()
    stage(run_of(tiny_data, again), cut)
    assert again.states == ["resumed", "advanced", "advanced", "finished"]
    assert (again.updates[0].done, again.updates[0].total) == (2, STEPS)
    assert_same_file(cut, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.safetensors", "whole.safetensors"]


@each_stage
def test_a_stage_on_images_that_stay_in_a_file_gives_the_same_net_to_the_last_bit(
    tiny_data: Dataset, tmp_path: Path, stage: Stage
) -> None:
    in_memory, in_file = tmp_path / "in-memory.safetensors", tmp_path / "in-file.safetensors"
    stage(run_of(tiny_data, Notebook(), seconds=1000), in_memory)
    with pytest.raises(KeyboardInterrupt):  # it goes on as exactly
        stage(run_of(mapped(tiny_data, tmp_path), Notebook(limit=3)), in_file)
    stage(run_of(mapped(tiny_data, tmp_path), Notebook(), seconds=1000), in_file)
    assert_same_file(in_file, in_memory)


def test_a_refinement_goes_on_from_the_first_part_wherever_it_was_cut_off(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    first_part = TINY.restorer
    refinement = Refinement(
        steps=3,
        loss=LogSquaredError(floor=1e-6),
        optimization=first_part.optimization,
        degradation=first_part.degradation,
    )
    larger = replace(refinement, batch=first_part.batch + 1, patch=first_part.patch + 2, start_share=0.25)
    recipe = replace(TINY, restorer=replace(first_part, refinements=(refinement, larger)))
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    RESTORER(run_of(tiny_data, Notebook(), recipe=recipe), whole)
    for limit in (STEPS - 1, 2, 2):  # in the first part, then in others
        with pytest.raises(KeyboardInterrupt):
            RESTORER(run_of(tiny_data, Notebook(limit=limit), recipe=recipe), cut)
    RESTORER(run_of(tiny_data, Notebook(), recipe=recipe), cut)
    assert_same_file(cut, whole)
    (net, about), (first_net, first_about) = (
        load_model(whole),
        load_model(tmp_path / "whole-part-1.safetensors"),
    )
    assert about["steps"] == STEPS + 6
    assert about["samples"] == (STEPS + 6) * first_part.batch + 3  # one image more in each of the last steps
    assert about["seconds"] > first_about["seconds"]
    assert [step for step, _, _ in about["curve"]] == list(range(1, STEPS + 7))
    weights = zip(net.state_dict().values(), first_net.state_dict().values(), strict=True)
    assert not any(torch.equal(refined, first) for refined, first in weights)


def test_a_stage_that_is_interrupted_again_and_again_ends_the_same(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    RESTORER(run_of(tiny_data, Notebook()), whole)
    for limit in (2, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            RESTORER(run_of(tiny_data, Notebook(limit=limit)), cut)
    RESTORER(run_of(tiny_data, Notebook()), cut)
    assert_same_file(cut, whole)


def test_a_stage_without_a_checkpoint_starts_anew(tiny_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        RESTORER(run_of(tiny_data, Notebook(limit=3), seconds=1000), path)
    assert list(tmp_path.iterdir()) == []
    again = Notebook()
    RESTORER(run_of(tiny_data, again, seconds=1000), path)
    assert again.states == ["started", *["advanced"] * STEPS, "finished"]


@pytest.mark.parametrize("damage", [b"", b"no tensors" * 100])
def test_a_damaged_checkpoint_is_named(tiny_data: Dataset, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.safetensors.training").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"a\.safetensors\.training is damaged"):
        RESTORER(run_of(tiny_data, Notebook()), tmp_path / "a.safetensors")


def test_a_checkpoint_that_lacks_a_part_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        RESTORER(run_of(tiny_data, Notebook(limit=2)), path)
    tensors, plain = load_state(tmp_path / "a.safetensors.training")
    del tensors["generator"]
    for name in ("format", "kind", "sha256"):
        del plain[name]
    save_state(tmp_path / "a.safetensors.training", tensors, plain)
    with pytest.raises(CheckpointError, match="damaged or of another net"):
        RESTORER(run_of(tiny_data, Notebook()), path)


@pytest.mark.parametrize("change", ["seed", "data", "recipe"])
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_a_file_of_another_run_is_refused_by_name(
    tiny_data: Dataset, tmp_path: Path, change: str, finished: bool
) -> None:
    path = tmp_path / "a.safetensors"
    if finished:
        RESTORER(run_of(tiny_data, Notebook()), path)
    else:
        with pytest.raises(KeyboardInterrupt):
            RESTORER(run_of(tiny_data, Notebook(limit=3)), path)
    other_recipe = replace(TINY, restorer=replace(TINY.restorer, steps=STEPS + 1))
    run = {
        "seed": run_of(tiny_data, Notebook(), seed=1),
        "data": run_of(replace(tiny_data, train=tiny_data.train.subset(range(8))), Notebook()),
        "recipe": run_of(tiny_data, Notebook(), recipe=other_recipe),
    }[change]
    (kept,) = tmp_path.iterdir()
    before = kept.read_bytes()
    with pytest.raises(SettingError, match=rf"{kept.name} was made with other .* choose another place"):
        RESTORER(run, path)
    assert kept.read_bytes() == before


def test_a_classifier_of_other_weights_is_not_taken_for_the_same(tiny_data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    fine_tune(run_of(tiny_data, Notebook()), nn.Identity(), sign_net(), path, name="plain")
    other = sign_net()
    other.mean.add_(0.01)
    with pytest.raises(SettingError, match="was made with other"):
        fine_tune(run_of(tiny_data, Notebook()), nn.Identity(), other, path, name="plain")


# A real kill.

PATIENT = replace(SMOKE, classifier=replace(SMOKE.classifier, steps=25, batch=4))
PATIENT_COMMAND = """
from dataclasses import replace
from functools import partial
import torch
from steadylens.cli import main
from steadylens.training import recipes
from steadylens.training import run
torch.cpu.get_capabilities = dict  # float32, as in the process that goes on
recipes.SMOKE = replace(recipes.SMOKE, classifier=replace(recipes.SMOKE.classifier, steps=25, batch=4))
run.Run = partial(run.Run, checkpoint_seconds=0)
main.main()
"""
"""The command line with a slower recipe that saves its state after every step."""


def write_folder(folder: Path, images: ImageSet) -> None:
    for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        place = folder / str(int(label)) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place)


def test_a_killed_command_goes_on_and_ends_as_if_it_had_not_been(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "images", tiny_data.train)
    path, source, cache = tmp_path / "net" / "killed.safetensors", f"folder:{tmp_path / 'images'}", tmp_path
    arguments = ["train", "classifier", "--out", str(path), "--data", source, "--recipe", "smoke"]
    arguments += ["--device", "cpu", "--cache", str(cache)]
    command = [sys.executable, "-c", PATIENT_COMMAND, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not path.with_name(f"{path.name}.training").exists():
            assert process.poll() is None, "the training ended without a checkpoint"
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    assert load_state(path.with_name(f"{path.name}.training"))[1]["step"] < 25

    monkeypatch.setattr(recipes, "SMOKE", PATIENT)
    main.app(arguments, standalone_mode=False)
    assert not path.with_name(f"{path.name}.training").exists()
    data, whole = load_dataset(source, cache=cache), tmp_path / "whole.safetensors"
    train_classifier(run_of(data, Notebook(), recipe=PATIENT, seconds=1000), whole)
    assert_same_file(path, whole)
