"""The command line keeps its promises: exit codes, one line for an error, and nothing half-written."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from steadylens.checkpoints.checkpoint import load_model, save_model
from steadylens.data import datasets
from steadylens.errors import DatasetError
from steadylens.evaluation import experiments
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import RestorationNet
from tests.cli.calling import MAIN, Outcome, steadylens
from tests.cli.class_folders import write_images


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    """Starts the command line in a process of its own, which heeds interrupts."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{MAIN}; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: "subprocess.Popen[str]") -> Outcome:
    out, err = process.communicate(timeout=120)
    return Outcome(code=process.returncode, out=out, err=err, exception=None)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


# Errors.


def missing_folder(folder: Path) -> list[str | Path]:
    return ["reproduce", "--data", f"folder:{folder / 'absent'}"]


def unknown_source(folder: Path) -> list[str | Path]:
    return ["reproduce", "--data", "imagenet"]


def missing_image(folder: Path) -> list[str | Path]:
    header = "Path,ClassId,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2\n"
    (folder / "Train").mkdir()
    (folder / "Train.csv").write_text(header + "Train/1/00001_00000_00000.png,1,0,0,5,5\n")
    (folder / "Test.csv").write_text(header)
    return ["reproduce", "--data", f"gtsrb:{folder}"]


def truncated_image(folder: Path) -> list[str | Path]:
    images = write_images(folder / "truncated", suffix="ppm")
    broken = images / "class 1" / "2.ppm"
    broken.write_bytes(broken.read_bytes()[:100])
    return ["reproduce", "--data", f"folder:{images}"]


def single_image(folder: Path) -> list[str | Path]:
    images = write_images(folder / "single")
    for path in sorted((images / "class 2").iterdir())[1:]:
        path.unlink()
    return ["reproduce", "--data", f"folder:{images}"]


def truncated_checkpoint(folder: Path) -> list[str | Path]:
    path = folder / "truncated.safetensors"
    save_model(path, RestorationNet(depth=3), about={})
    path.write_bytes(path.read_bytes()[:-10])
    return ["evaluate", path, "--data", f"folder:{write_images(folder / 'sound')}"]


def weights_not_numbers(folder: Path) -> list[str | Path]:
    net = RestorationNet(depth=3)
    with torch.no_grad():
        next(net.parameters()).view(-1)[3] = float("nan")
    path = folder / "nan.safetensors"
    save_model(path, net, about={})
    return ["evaluate", path, "--data", f"folder:{write_images(folder / 'sound')}"]


def missing_checkpoint(folder: Path) -> list[str | Path]:
    return ["evaluate", folder / "absent.safetensors", "--data", f"folder:{write_images(folder / 'sound')}"]


def missing_records(folder: Path) -> list[str | Path]:
    return ["report", folder / "absent.jsonl"]


def broken_records(folder: Path) -> list[str | Path]:
    (folder / "broken.jsonl").write_text('{"kind": "Accuracy"}\n')
    return ["report", folder / "broken.jsonl"]


def blocked_place(folder: Path) -> list[str | Path]:
    (folder / "file").write_text("in the way")
    images = write_images(folder / "sound")
    out = folder / "file" / "net.safetensors"
    return ["train", "restorer", "L3", "--recipe", "smoke", "--data", f"folder:{images}", "--out", out]


def unknown_device(folder: Path) -> list[str | Path]:
    return ["reproduce", "--device", "abacus"]


def device_without_storage(folder: Path) -> list[str | Path]:
    return ["reproduce", "--device", "meta"]


def no_versions(folder: Path) -> list[str | Path]:
    return ["evaluate", "l3-gtsrb", "--data", f"folder:{write_images(folder / 'sound')}", "--versions", "0"]


def other_classes(folder: Path) -> list[str | Path]:
    save_model(folder / "seven.safetensors", SignNet(classes=7), about={})
    images = write_images(folder / "sound")
    return ["evaluate", folder / "seven.safetensors", "--data", f"folder:{images}"]


def same_names(folder: Path) -> list[str | Path]:
    images = write_images(folder / "sound")
    return ["evaluate", "l3-gtsrb", "l3-gtsrb", "--data", f"folder:{images}"]


def weights_of_another_library(folder: Path) -> list[str | Path]:
    torch.save(nn.Linear(2, 2).state_dict(), folder / "net.pth")
    return ["evaluate", folder / "net.pth"]


def unknown_net(folder: Path) -> list[str | Path]:
    return ["evaluate", "l12-gtsrb"]


def ending_of_no_weights(folder: Path) -> list[str | Path]:
    return ["train", "restorer", "L3", "--data", "imagenet", "--out", folder / "net.pth"]


def another_ending_of_no_weights(folder: Path) -> list[str | Path]:
    return ["train", "classifier", "--data", "imagenet", "--out", folder / "net.pth"]


def no_text(folder: Path) -> list[str | Path]:
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\0")
    return ["report", folder / "binary.jsonl"]


BAD_INPUT: list[tuple[Callable[[Path], list[str | Path]], int, str]] = [
    (missing_folder, 1, r"absent: No such file or directory; give a folder"),
    (
        unknown_source,
        1,
        r"source is 'imagenet', it must be signs, signs:N, gtsrb:DIR, folder:DIR, shards:DIR or "
        "photographs:DIR",
    ),
    (missing_image, 1, r"Train\.csv, line 2 names Train/1/00001_00000_00000\.png, which is not there"),
    (truncated_image, 1, r"class 1/2\.ppm cannot be read: .*; replace the file"),
    (single_image, 1, r"class 'class 2' has a single image, which cannot be split"),
    (truncated_checkpoint, 1, r"truncated\.safetensors is damaged or no safetensors file"),
    (weights_not_numbers, 1, r"nan\.safetensors: .* holds values that are not finite"),
    (missing_checkpoint, 1, r"there is no file .*absent\.safetensors"),
    (missing_records, 1, r"absent\.jsonl cannot be read: No such file or directory; give a file of records"),
    (no_text, 1, r"binary\.jsonl is no file of records, which are lines of JSON; give another"),
    (broken_records, 1, r"broken\.jsonl, line 1 is no record of this version"),
    (blocked_place, 1, r"cannot write into .*file: .*file is no folder; choose another place"),
    (unknown_device, 2, r"there is no device 'abacus'; here, there are cpu.*auto"),
    (device_without_storage, 2, r"the device 'meta' cannot be used.*; here, there are cpu.*auto"),
    (no_versions, 2, r"versions is 0, at least 1 noisy version"),
    (other_classes, 2, r"seven tells 7 classes apart, folder:.* has 3"),
    (same_names, 2, r"the nets are l3-gtsrb, l3-gtsrb; give at least one, each with a"),
    (
        weights_of_another_library,
        1,
        r"net\.pth was written by torch\.save and does not say which architecture",
    ),
    (
        unknown_net,
        2,
        r"there is no net 'l12-gtsrb'; give .*; for others, there is steadylens compare",
    ),
    (ending_of_no_weights, 2, r"net\.pth is to hold weights; give it a name that ends in \.safetensors"),
    (another_ending_of_no_weights, 2, r"net\.pth is to hold weights; give it a name"),
]


def bad_input(make: Callable[[Path], list[str | Path]], folder: Path) -> list[str | Path]:
    """Returns the arguments of a call that goes wrong; nothing is written outside of the folder."""
    arguments = make(folder)
    if "--out" not in arguments:
        arguments += ["--out", folder / "out"]
    if arguments[0] != "report":
        arguments += ["--cache", folder / "cache"]
    return arguments


@pytest.mark.parametrize(
    ("make", "code", "message"), BAD_INPUT, ids=[make.__name__ for make, _, _ in BAD_INPUT]
)
def test_bad_input_gives_one_line_and_an_exit_code(
    make: Callable[[Path], list[str | Path]], code: int, message: str, tmp_path: Path
) -> None:
    outcome = steadylens(*bad_input(make, tmp_path))
    assert outcome.code == code
    assert isinstance(outcome.exception, SystemExit)
    assert re.fullmatch(f"steadylens: .*{message}.*\n", outcome.err)
    assert "Traceback" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "--recipe", "quickest"], ["quickest", "paper", "fast", "quick", "smoke"]),
        (["train", "restorer", "L4", "--out", "net"], ["L4", "L11", "L9", "L7", "L5", "L3", "Dong"]),
        (["train", "restorer", "L5"], ["--out"]),
        (["reproduce", "--seed", "one"], ["--seed", "integer"]),
        (["restore"], ["path..."]),
        (["evaluate"], ["models"]),
    ],
)
def test_wrong_usage_names_what_is_wrong_and_what_would_do(arguments: list[str], words: list[str]) -> None:
    outcome = steadylens(*arguments)
    assert outcome.code == 2
    assert all(word.lower() in outcome.err.lower() for word in words)
    assert "Traceback" not in outcome.err


def test_a_real_process_says_one_line_too(tmp_path: Path) -> None:
    outcome = finish(start(*bad_input(missing_folder, tmp_path)))
    assert outcome.code == 1
    assert re.fullmatch(r"steadylens: .*absent.*\n", outcome.err)
    outcome = finish(start("train", "restorer", "L4", "--out", tmp_path / "net.safetensors"))
    assert outcome.code == 2
    known = "'L11', 'L9', 'L7', 'L5', 'L3', 'Dong', 'UNet'"
    assert outcome.err == (
        f"steadylens: Invalid value for 'net': 'L4' is not one of {known}; --help lists what there is\n"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    arguments = bad_input(missing_folder, tmp_path)
    assert isinstance(steadylens(*arguments, "--debug").exception, DatasetError)
    outcome = finish(start(*arguments, "--debug"))
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "DatasetError" in outcome.err


# Interrupts.


def test_an_interrupted_training_ends_with_one_line_and_leaves_nothing_half_written(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(
        "train", "restorer", "L5", "--recipe", "paper", "--data", f"folder:{images}",
        "--out", out / "net.safetensors", "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"  images of folder:{images}: 0:0")
    time.sleep(1)  # the training of 100,000 steps begins
    process.send_signal(signal.SIGTERM)  # as Ctrl+C, which the test of `restore` sends
    outcome = finish(process)
    assert outcome.code == 1
    assert outcome.err == "steadylens: interrupted; run the same command again to continue\n"
    assert "net:" not in outcome.out
    assert not (out / "net.safetensors").exists()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("command", [["reproduce"], ["train", "classifier"]])
def test_an_interrupt_while_images_are_loaded_is_one_line_too(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load_dataset", interrupted)
    outcome = steadylens(*command, "--out", tmp_path / "out.safetensors")
    assert outcome.code == 1
    assert outcome.err == "steadylens: interrupted; run the same command again to continue\n"
    assert outcome.out == ""


# Work.


def test_images_are_decoded_once_and_then_come_from_the_cache(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[str | Path] = [
        "train", "restorer", "L3", "--recipe", "smoke", "--data", f"folder:{images}",
        "--cache", tmp_path / "cache", "--out", tmp_path / "trained.safetensors",
    ]  # fmt: skip
    assert steadylens(*arguments).code == 0

    def no_more(*arguments: object, **settings: object) -> None:
        raise AssertionError

    monkeypatch.setattr(datasets, "read_image", no_more)
    outcome = steadylens(*arguments)
    assert outcome.code == 0, outcome.err
    assert re.match(r"  images of folder:.*: 0:0\d, 9 for training, 3 for validation, ", outcome.out)
    assert "restorer L3: skipped: trained before" in outcome.out
    assert f"net: {(tmp_path / 'trained.safetensors').resolve()}\n" in outcome.out


def test_nets_are_trained_fused_evaluated_and_reported(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    common = ("--recipe", "smoke", "--data", f"folder:{images}", "--cache", tmp_path / "cache")
    front, alone, fused = (tmp_path / f"{name}.safetensors" for name in ("front", "alone", "fused"))
    calls: tuple[tuple[str | Path, ...], ...] = (
        ("train", "restorer", "L3", "--start", "l3-gtsrb", "--out", front, *common),
        ("train", "classifier", "--noisy", "--out", alone, *common),
        ("fuse", front, alone, "--out", fused, *common),
        (
            "evaluate",
            "l3-gtsrb",
            front,
            alone,
            fused,
            "--out",
            tmp_path / "evaluation",
            "--versions",
            "2",
            *common,
        ),
        ("report", tmp_path / "evaluation" / "records.jsonl", "--out", tmp_path / "again" / "page.html"),
    )
    for call in calls:
        outcome = steadylens(*call)
        assert (outcome.code, outcome.err) == (0, "")
    assert load_model(fused)[1]["stage"] == "fine-tuning pair"
    first, again = tmp_path / "evaluation", tmp_path / "again"
    assert (first / "tables.md").read_bytes() == (again / "tables.md").read_bytes()
    assert (first / "report.html").read_bytes() == (again / "page.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reproduce", "--colour", "red"], "--colour"),
        (["reproduce", "--recipe", "slow"], "slow"),
        (["reproduce", "--seed", "one"], "--seed"),
        (["fuse", "net.safetensors"], "classifier"),
        (["trian"], "trian"),
    ],
)
def test_a_call_that_cannot_be_parsed_gets_one_line_that_leads_to_the_help(
    arguments: list[str], said: str
) -> None:
    outcome = finish(start(*arguments))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("steadylens: ")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert "--help" in outcome.err


@pytest.mark.parametrize("arguments", [[], ["train"]])
def test_a_call_without_a_command_gets_the_help(arguments: list[str]) -> None:
    outcome = finish(start(*arguments))
    assert (outcome.code, outcome.err) == (2, "")
    assert "Usage" in outcome.out


def test_a_training_does_not_go_on_from_a_net_of_another_architecture(images: Path, tmp_path: Path) -> None:
    outcome = steadylens(
        "train", "restorer", "UNet", "--start", "l3-gtsrb", "--data", f"folder:{images}",
        "--out", tmp_path / "net.safetensors",
    )  # fmt: skip
    assert outcome.code == 2
    assert "l3-gtsrb is no UNet, so it cannot be its start" in outcome.err
    assert not (tmp_path / "net.safetensors").exists()
