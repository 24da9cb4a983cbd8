"""A run knows where its numbers come from, and tells results apart by what they depend on."""

import math
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.training import run as run_module
from steadylens.training.recipes import FAST, SMOKE
from steadylens.training.run import Run, commit, device_name, versions


@pytest.fixture
def run(tiny_data: Dataset) -> Run:
    return Run(
        data=tiny_data,
        recipe=SMOKE,
        seed=3,
        device=torch.device("cpu"),
        observe=lambda update: None,
    )


@pytest.fixture
def forgotten_commit() -> Iterator[None]:
    """Lets the commit be asked for anew, in the test and after it."""
    commit.cache_clear()
    yield
    commit.cache_clear()


def test_a_key_is_the_same_for_the_same_parts(run: Run) -> None:
    key = run.key("stage", SMOKE.restorer)
    assert key == replace(run).key("stage", SMOKE.restorer)
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")


def test_a_key_tells_data_seed_stage_and_settings_apart(run: Run) -> None:
    other_data = replace(run.data, train=run.data.train.subset(range(8)))
    other_settings = replace(SMOKE.restorer, steps=SMOKE.restorer.steps + 1)
    keys = {
        run.key("stage", SMOKE.restorer),
        replace(run, seed=4).key("stage", SMOKE.restorer),
        replace(run, data=other_data).key("stage", SMOKE.restorer),
        run.key("other stage", SMOKE.restorer),
        run.key("stage", other_settings),
        run.key("stage"),
    }
    assert len(keys) == 6


def test_a_key_does_not_depend_on_what_does_not_change_a_result(run: Run) -> None:
    moved = replace(run.data, source="folder:elsewhere")
    other = replace(run, data=moved, recipe=FAST, checkpoint_seconds=1, observe=print)
    assert other.key("stage", SMOKE.restorer) == run.key("stage", SMOKE.restorer)


def test_kinds_of_noise_are_no_part_of_a_recipes_text(run: Run) -> None:
    # Each kind is measured by a stage of its own, and what was measured before there were kinds stays valid.
    evaluation = replace(SMOKE.evaluation, noises=("poisson", "jpeg"))
    assert run.key(replace(SMOKE, evaluation=evaluation)) == run.key(SMOKE)
    assert "noises" not in repr(SMOKE)


@pytest.mark.parametrize(
    ("noises", "message"),
    [
        (("rain",), "there is no noise called 'rain'; choose from gaussian, uniform"),
        ((), "noises are "),
        (("jpeg", "jpeg"), "each only once"),
    ],
)
def test_kinds_of_noise_that_cannot_be_measured_are_refused(noises: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(SMOKE.evaluation, noises=noises)


def test_a_key_is_golden(run: Run) -> None:
    # A key that changes makes every file of earlier runs useless: change it on purpose only.
    data = replace(run.data)
    data.__dict__["fingerprint"] = "0123456789ab"
    assert replace(run, data=data).key("stage", 1) == "322a0c16fea73d33"


def test_provenance_holds_what_a_number_depends_on(run: Run) -> None:
    provenance = run.provenance
    assert (provenance.recipe, provenance.seed) == ("smoke", 3)
    assert provenance.data == f"coloured ({run.data.fingerprint})"
    assert provenance.commit == commit()
    assert dict(provenance.versions)["torch"] == version("torch")
    assert provenance.device == device_name(run.device)


def test_versions_name_the_interpreter_and_the_libraries() -> None:
    assert [name for name, _ in versions()] == ["python", "steadylens", "torch", "numpy", "pillow"]
    assert all(number[0].isdigit() for _, number in versions())


def test_the_device_is_told_in_words() -> None:
    assert device_name(torch.device("cpu")).endswith(f" CPU, {torch.get_num_threads()} threads")


@pytest.mark.usefixtures("forgotten_commit")
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("git"),
        subprocess.CalledProcessError(128, "git"),
        subprocess.TimeoutExpired("git", 10),
    ],
)
def test_without_version_control_the_commit_is_unknown(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert commit() == "unknown"


@pytest.mark.usefixtures("forgotten_commit")
def test_a_tag_does_not_hide_the_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "run.py").write_text("")
    git("add", "run.py")
    git("commit", "--quiet", "-m", "Begin")
    git("tag", "v1")
    monkeypatch.setattr(run_module, "__file__", str(tmp_path / "run.py"))
    head = git("rev-parse", "HEAD")[:12]
    assert commit() == head
    commit.cache_clear()
    (tmp_path / "run.py").write_text("changed")
    assert commit() == f"{head}-dirty"


@pytest.mark.parametrize(
    ("name", "value"),
    [("label_smoothing", -0.1), ("label_smoothing", 1.0), ("consistency", -1.0), ("consistency", math.nan)],
)
def test_parts_of_a_loss_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{name} is {value}, it must"):
        replace(SMOKE.classifier, **{name: value})


def test_a_net_is_trained_by_the_settings_for_nets_of_its_class() -> None:
    assert SMOKE.restorer_recipe("DongNet") == SMOKE.restorer_recipe("Dong") == SMOKE.dong
    assert SMOKE.restorer_recipe("RestorationUNet") == SMOKE.restorer_recipe("UNet") == SMOKE.unet
    assert SMOKE.restorer_recipe("L11") == SMOKE.restorer


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("recipe", "smoke", r"recipe is 'smoke', .* steadylens\.recipe_named\('smoke'\)"),
        ("seed", "a", "seed is 'a', it must be an int such as 0, not a str"),
        ("seed", True, "not a bool"),
        ("seed", 1.5, "not a float"),
    ],
)
def test_settings_of_another_type_are_refused(run: Run, field: str, value: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace(run, **{field: value})


def test_a_device_may_be_given_by_its_name(tiny_data: Dataset) -> None:
    given: Any = "cpu"
    run = Run(data=tiny_data, recipe=SMOKE, seed=0, device=given)
    assert run.device == torch.device("cpu")
    refused: tuple[Any, ...] = ("gpu", None, 3.5)
    for wrong in refused:
        with pytest.raises(SettingError, match="which PyTorch does not know; give cpu, cuda or"):
            replace(run, device=wrong)
