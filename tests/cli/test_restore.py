"""The command restores what can be restored, says what it did, and leaves whole files only."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import PRETRAINED
from steadylens.checkpoints.packaged import DEFAULT_RESTORER
from steadylens.cli.deploy import serve_page
from steadylens.cli.main import app
from steadylens.cli.restore import restore as command
from steadylens.images.reading import read_image_file
from steadylens.inference import batch, image_files
from steadylens.inference.jobs import RestoreJob
from steadylens.inference.restorer import restore
from steadylens.nets.restoration import GaussianSmoothing
from tests.cli.calling import run
from tests.cli.conftest import PIXELS


def test_an_identity_gives_back_every_file_of_a_folder(folder: Path, tmp_path: Path, identity: Path) -> None:
    outcome = run(folder, "--out", tmp_path / "out", "--net", identity)
    assert outcome.code == 0
    assert "restored 4 of 4 images" in outcome.out
    for name in ("a.png", "deep/b.webp", "deep/c.tif", "d.bmp"):
        before, after = read_image_file(folder / name), read_image_file(tmp_path / "out" / name)
        assert before.pixels.dtype == after.pixels.dtype
        assert np.array_equal(before.pixels, after.pixels)
        assert before.format == after.format


def test_files_that_are_left_out_are_counted_by_their_endings(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    assert "ignored" not in run(folder, "--out", tmp_path / "one", "--net", identity).out
    for name in ("moving.gif", "deep/STILL.GIF", "notes", ".hidden"):
        (folder / name).touch()
    outcome = run(folder, "--out", tmp_path / "other", "--net", identity)
    assert outcome.code == 0
    assert outcome.out.endswith("ignored files of other formats: 2 .gif, 1 without an ending\n")


def test_a_packaged_net_gives_what_python_gives(folder: Path, tmp_path: Path) -> None:
    assert run(folder / "a.png", "--out", tmp_path / "out", "--net", "l3-gtsrb", "--tile", "16").code == 0
    expected = restore(PIXELS[..., :3], "l3-gtsrb").astype(int)
    assert abs(read_image_file(tmp_path / "out" / "a.png").pixels - expected).max() <= 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_strength_gives_what_python_gives(folder: Path, tmp_path: Path, smoothing: Path, jobs: str) -> None:
    call = (folder / "a.png", folder / "d.bmp", "--out", tmp_path / "out", "--net", smoothing)
    assert run(*call, "--strength", "0.4", "--jobs", jobs).code == 0
    expected = restore(PIXELS[..., :3], GaussianSmoothing(sigma_pixels=1.0), strength=0.4)
    assert np.array_equal(read_image_file(tmp_path / "out" / "a.png").pixels, expected)


def test_the_default_net_is_that_of_python() -> None:
    defaults = [
        inspect.signature(function).parameters["net"].default for function in (restore, command, serve_page)
    ]
    assert defaults == [DEFAULT_RESTORER] * 3
    assert DEFAULT_RESTORER in PRETRAINED


def test_the_fastest_engine_is_named_and_gives_what_pytorch_gives(folder: Path, tmp_path: Path) -> None:
    calls = (folder / "a.png", "--net", "l3-gtsrb", "--engine")
    outcome = run(*calls, "fastest", "--out", tmp_path / "fastest")
    assert outcome.code == 0
    engines = r"(PyTorch|ONNX Runtime|OpenVINO(, \d+ tiles at a time)?)"
    assert re.match(rf"engine: {engines} is the fastest on 160x160 pixels", outcome.out)
    assert run(*calls, "torch", "--out", tmp_path / "torch").code == 0
    one, other = (read_image_file(tmp_path / name / "a.png").pixels for name in ("fastest", "torch"))
    assert abs(one.astype(int) - other).max() <= 1


def test_bfloat16_changes_the_result_by_little(folder: Path, tmp_path: Path) -> None:
    for engine in ("torch", "bfloat16"):
        options = ("--net", "unet-gtsrb", "--always", "--engine", engine, "--out", tmp_path / engine)
        assert run(folder / "a.png", *options).code == 0
    one, other = (read_image_file(tmp_path / name / "a.png").pixels for name in ("bfloat16", "torch"))
    difference = abs(one.astype(int) - other)
    assert 0 < difference.max() <= 8
    assert difference.mean() < 1


def test_what_was_removed_is_written_and_its_scale_is_said(
    folder: Path, tmp_path: Path, smoothing: Path
) -> None:
    outcome = run(folder / "deep" / "c.tif", "--out", tmp_path / "out", "--net", smoothing, "--pattern")
    before = read_image_file(folder / "deep" / "c.tif").pixels.astype(float)
    after = read_image_file(tmp_path / "out" / "c.tif").pixels
    removed = (before - after) / 257
    scale = float(outcome.out.partition("nothing at 128, ")[2].split()[0])
    assert scale == pytest.approx(abs(removed).max(), rel=0.01)
    view = read_image_file(tmp_path / "out" / "c.tif.pattern.png").pixels
    assert abs((view - 128.0) / 127 * scale - removed).max() < 1.5


def test_views_in_place_are_neither_restored_nor_overwritten(folder: Path, smoothing: Path) -> None:
    call = (folder, "--in-place", "--pattern", "--net", smoothing)
    first = run(*call)
    assert first.code == 0
    views = {path: path.read_bytes() for path in folder.rglob("*.pattern.png")}
    assert views
    again = run(*call)
    assert again.code == 0
    assert f"skipped {len(views)} whose output already exists" in again.out
    assert views == {path: path.read_bytes() for path in folder.rglob("*.pattern.png")}


def test_a_view_does_not_stay_beside_a_file_that_was_not_restored(
    folder: Path, tmp_path: Path, smoothing: Path
) -> None:
    out = tmp_path / "out"
    outcome = run(
        folder / "deep" / "b.webp", "--out", out, "--net", smoothing, "--pattern", "--format", "jpeg"
    )
    assert outcome.code == 1  # the file has alpha, which JPEG does not hold
    assert not out.exists()


def test_where_memory_runs_out_the_other_files_are_restored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = image_files.restore_file

    def greedy(job: RestoreJob, *arguments: Any, **settings: Any) -> Any:
        if job.source.name == "a.png":
            torch.empty(2**58, dtype=torch.uint8)  # what PyTorch raises of it on a CPU
        return plain(job, *arguments, **settings)

    monkeypatch.setattr(batch, "restore_file", greedy)
    outcome = run(folder, "--out", tmp_path / "out", "--net", "l3-gtsrb")
    assert outcome.code == 1
    assert "restored 3 of 4 images" in outcome.out
    assert "a.png: memory ran out; give a smaller --tile" in outcome.err


def test_a_bad_file_is_told_at_once_and_the_others_are_restored(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:400])
    outcome = run(folder, "--out", tmp_path / "out", "--net", identity)
    assert outcome.code == 1
    assert "restored 4 of 6 images" in outcome.out
    told = outcome.err.splitlines()
    assert [line.split()[0] for line in told] == ["steadylens:"] * 3
    assert [Path(line.split()[1]).name for line in told[:2]] == ["bad.png", "cut.png"]
    assert told[2] == "steadylens: 2 could not be restored, as said above"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "d.bmp", "deep"]


def test_what_a_format_cannot_hold_is_told_with_the_file(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    outcome = run(folder, "--out", tmp_path / "out", "--net", identity, "--format", "jpeg")
    assert outcome.code == 1
    assert "b.webp: the image has alpha, which JPEG does not hold" in outcome.err
    assert "c.tif: JPEG holds 8 bits, so 16 bits were rounded" in outcome.out
    assert read_image_file(tmp_path / "out" / "a.jpg").format == "JPEG"


def test_conversions_are_said(tmp_path: Path, identity: Path) -> None:
    Image.fromarray(PIXELS[..., :3]).quantize(8).save(tmp_path / "p.png")
    outcome = run(tmp_path / "p.png", "--out", tmp_path / "out", "--net", identity)
    assert "p.png: its palette became RGB" in outcome.out


def test_what_is_there_stays_unless_it_is_to_be_overwritten(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("mine")
    first = run(folder, "--out", out, "--net", identity)
    assert first.code == 0
    assert "restored 3 of 4 images" in first.out
    assert "skipped 1 whose output already exists; --overwrite" in first.out
    assert (out / "a.png").read_text() == "mine"
    assert "restored 0 of 4" in run(folder, "--out", out, "--net", identity).out
    assert "restored 4 of 4" in run(folder, "--out", out, "--net", identity, "--overwrite").out
    assert np.array_equal(read_image_file(out / "a.png").pixels, PIXELS[..., :3])


def test_in_place_replaces_the_files_themselves(folder: Path, smoothing: Path) -> None:
    expected = restore(PIXELS[..., :3], GaussianSmoothing(sigma_pixels=1.0))
    assert run(folder, "--in-place", "--net", smoothing).code == 0
    assert np.array_equal(read_image_file(folder / "a.png").pixels, expected)
    assert len(list(folder.rglob("*.*"))) == 4


def test_an_image_above_the_limit_is_refused_and_the_option_is_named(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    outcome = run(
        folder / "a.png", "--out", tmp_path / "out", "--net", identity, "--max-megapixels", "0.0005"
    )
    assert outcome.code == 1
    assert "30x20 pixels" in outcome.err
    assert "at most 0.0005 are read, raise the limit" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "give either --out with a folder or a file, or --in-place"),
        (["a.png", "--out", "out", "--in-place"], "give either --out with a folder or a file, or"),
        (["a.png", "--out", "out", "--quality", "0"], "quality is 0, it must be 1 to 100"),
        (["a.png", "--out", "out", "--format", "png", "--quality", "9"], "PNG keeps every pixel value"),
        (["a.png", "--out", "b.png", "--quality", "9"], "PNG keeps every pixel value and has no quality"),
        (["a.png", "--out", "b.png", "--format", "jpeg"], "--out b.png ends like PNG, and --format is jpeg"),
        (["a.png", "d.bmp", "--out", "b.png"], "b.png ends like an image file, and 2 paths may hold several"),
        (["a.png", "--out", "b.avif"], "b.avif ends like an image that cannot be written"),
        (["a.png", "d.bmp", "--out", "-"], "--out - writes one image; name one input file"),
        (["deep", "--out", "-"], "--out - writes one image; name one input file"),
        (["a.png", "--out", "-", "--pattern"], "--out - writes one image; name one input file, without --pa"),
        (["a.png", "--out", "out", "--flatten", "whit"], "--flatten is 'whit', it must be an opaque colour"),
        (["a.png", "--out", "out", "--flatten", "#ff000080"], "it must be an opaque colour, such as white"),
        (["a.png", "--out", "out", "--jobs", "0"], "there are 0 processes, at least 1 is needed"),
        (["a.png", "--out", "out", "--log", "a.png"], "a.png, line 1 is no result of a restored file"),
        (["a.png", "--out", "out", "--log", "-"], "--log - is no file; name one, such as log.jsonl"),
        (["a.png", "--out", "out", "--log", "no/x.jsonl"], "no folder no; make it first, or name another"),
        (["a.png", "--out", "out", "--device", "mps"], "the device 'mps' cannot be used"),
        (["a.png", "--in-place", "--format", "png"], "--format writes new files"),
        (["a.png", "--out", "out", "--max-megapixels", "0"], "is 0.0, it must be positive and finite"),
        (["a.png", "--out", "out", "--max-megapixels", "nan"], "is nan, it must be positive and finite"),
        (["a.png", "--out", "out", "--max-megapixels", "inf"], "is inf, it must be positive and finite"),
        (["a.png", "--out", "out", "--strength", "1.5"], "the strength is 1.5; it must be from 0, which"),
        (["a.png", "--out", "out", "--tile", "12"], "a tile of 12 pixels is too small"),
        (
            ["a.png", "--out", "out", "--net", "l12"],
            "no net 'l12'; give a .safetensors file or one of",
        ),
        (["a.png", "--out", "out", "--net", "sign-gtsrb"], "a SignNet answers with classes"),
        (["a.png", "--out", "."], "would be written over"),
        (["none.png", "--out", "out"], "none.png does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    outcome = run(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_one_file_may_become_a_file_of_another_name_and_format(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    for _ in range(2):
        outcome = run(folder / "a.png", "--out", tmp_path / "new" / "x.jpg", "--net", identity)
        assert outcome.code == 0
    assert "skipped 1 whose output already exists" in outcome.out
    assert read_image_file(tmp_path / "new" / "x.jpg").format == "JPEG"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.jpg"]


def test_an_image_on_standard_output_is_alone_there(folder: Path, tmp_path: Path, identity: Path) -> None:
    source = folder / "deep" / "c.tif"
    log = tmp_path / "log.jsonl"
    call = ("restore", source, "--out", "-", "--net", identity, "--format", "png", "--log", log)
    result = CliRunner().invoke(app, [*map(str, call)])
    assert result.exit_code == 0
    (tmp_path / "x.png").write_bytes(result.stdout_bytes)
    assert np.array_equal(read_image_file(tmp_path / "x.png").pixels, read_image_file(source).pixels)
    assert "restored 1 of 1 images" in result.stderr
    assert '"target": "-"' in log.read_text()


def test_nothing_is_written_to_standard_output_if_it_fails(folder: Path, identity: Path) -> None:
    outcome = run(folder / "deep" / "b.webp", "--out", "-", "--net", identity, "--format", "jpeg")
    assert (outcome.code, outcome.out) == (1, "")
    assert "such as --flatten white" in outcome.err


def test_a_colour_behind_what_is_transparent_lets_any_format_store_it(
    folder: Path, tmp_path: Path, identity: Path
) -> None:
    call = (folder / "deep" / "b.webp", "--net", identity, "--flatten", "#ff8800", "--keep-times")
    assert run(*call, "--out", tmp_path / "b.ppm").code == 0
    share = PIXELS[..., 3:] / 255
    expected = PIXELS[..., :3] * share + np.array([255, 136, 0]) * (1 - share)
    assert abs(read_image_file(tmp_path / "b.ppm").pixels - expected).max() < 0.51
    times = [path.stat().st_mtime_ns for path in (tmp_path / "b.ppm", folder / "deep" / "b.webp")]
    assert times[0] == times[1]


def test_links_to_folders_are_named(folder: Path, tmp_path: Path, identity: Path) -> None:
    (folder / "elsewhere").symlink_to(tmp_path)
    outcome = run(folder, "--out", tmp_path / "out", "--net", identity)
    assert outcome.code == 0
    assert f"links to folders are not followed: {folder / 'elsewhere'}; name a folder" in outcome.out


def test_a_name_is_printed_as_it_is(tmp_path: Path, identity: Path) -> None:
    folder = tmp_path / ":cat:" / "[red]"
    folder.mkdir(parents=True)
    Image.new("1", (9, 8)).save(folder / "a\x1b[31m.png")
    (folder / "bad.png").write_bytes(b"no image")
    outcome = run(folder, "--out", tmp_path / "out", "--net", identity)
    assert f"{folder}/a\\x1b[31m.png: black and white became" in outcome.out
    assert f"steadylens: {folder}/bad.png is not" in outcome.err


@pytest.mark.skipif(os.name != "posix", reason="file names are texts here")
def test_a_name_that_is_no_text_stops_nothing(tmp_path: Path, identity: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"bad\xff.png", b"good.png"):  # of one bit, so that something is said of each
        Image.new("1", (9, 8)).save(folder / os.fsdecode(name))
    command = "from steadylens.cli.main import main; main()"
    arguments: list[str | Path] = ["restore", folder, "--out", tmp_path / "out", "--net", identity]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert r"bad\udcff.png: black and white became" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_no_module_of_training_or_data_is_loaded(folder: Path, tmp_path: Path, identity: Path) -> None:
    (folder / "notes.txt").touch()
    code = (
        "import sys\n"
        "from steadylens.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('training', 'data', 'noise', 'evaluation')"
        " if f'steadylens.{name}' in sys.modules])"
    )
    arguments: list[str | Path] = ["restore", folder, "--out", tmp_path / "out", "--net", identity]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert "restored 4 of 4 images" in done.stdout
    assert "1 .txt" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
