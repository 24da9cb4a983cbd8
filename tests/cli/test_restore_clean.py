"""The command leaves clean files as they are and says so, and shows a preview before hours are spent."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from steadylens.cli.main import app
from steadylens.images.reading import read_image_file
from steadylens.inference.inspecting.noise_level import noise_level
from steadylens.inference.restorer import restore
from steadylens.nets.restoration import GaussianSmoothing
from tests.cli.calling import run
from tests.inference.inspecting.scenes import enlarged_noise, levels, noise, scene

NOISY = levels(scene(300, 280) + noise((300, 280, 3), 12))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Returns a folder with two clean images and a noisy one."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(levels(scene(140, 180))).save(folder / "clean.jpg", quality=95)
    Image.fromarray(levels(scene(200, 150))).save(folder / "deep" / "clean.png")
    Image.fromarray(NOISY).save(folder / "noisy.png")
    return folder


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_clean_files_are_copied_and_told_in_output_log_and_summary(
    photos: Path, tmp_path: Path, jobs: str
) -> None:
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    call = (photos, "--out", out, "--net", "l3-gtsrb", "--log", log, "--jobs", jobs)
    outcome = run(*call)
    assert outcome.code == 0, outcome.err
    lines = sorted(line.strip() for line in outcome.out.splitlines() if "noise about" in line)
    assert [line.partition(": ")[0] for line in lines] == [
        f"{photos / name}" for name in ("clean.jpg", "deep/clean.png", "noisy.png")
    ]
    assert all("clean (noise about 0." in line and line.endswith("not restored") for line in lines[:2])
    assert lines[2].endswith(f": {noise_level(NOISY, 'l3-gtsrb')}")
    assert "restored 1 of 3 images" in outcome.out
    assert "left 2 as they are, judged clean; --always with --overwrite restores them" in outcome.out
    for name in ("clean.jpg", "deep/clean.png"):
        assert (out / name).read_bytes() == (photos / name).read_bytes()
    rows = {Path(row["target"]).name: row for row in map(json.loads, log.read_text().splitlines())}
    assert {name: row["state"] for name, row in rows.items()} == {
        "clean.jpg": "clean", "clean.png": "clean", "noisy.png": "restored"
    }  # fmt: skip
    assert "--always restores it" in rows["clean.jpg"]["reason"]
    assert rows["noisy.png"]["noise_grey"] == noise_level(NOISY, "l3-gtsrb").grey


def test_clean_files_are_not_copied_again_and_restored_if_asked_to(photos: Path, tmp_path: Path) -> None:
    call = (photos / "clean.jpg", "--out", tmp_path / "out", "--net", "l3-gtsrb")
    assert "restored 0 of 1 images" in run(*call).out
    assert "skipped 1 whose output already exists" in run(*call).out
    always = run(*call, "--always", "--overwrite")
    assert "restored 1 of 1 images" in always.out
    assert "judged clean" not in always.out
    assert (tmp_path / "out" / "clean.jpg").read_bytes() != (photos / "clean.jpg").read_bytes()


def test_in_place_clean_files_stay_and_can_be_restored_later(photos: Path) -> None:
    before = (photos / "deep" / "clean.png").read_bytes()
    call = (photos, "--in-place", "--net", "l3-gtsrb")
    outcome = run(*call)
    assert "left 2 as they are, judged clean; --always restores them" in outcome.out
    assert (photos / "deep" / "clean.png").read_bytes() == before
    again = run(*call, "--always")
    assert "restored 2 of 3 images" in again.out
    assert "skipped 1 that were restored in place before" in again.out


def test_merged_logs_count_clean_files(photos: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    call = (photos, "--out", tmp_path / "out", "--net", "l3-gtsrb", "--log", log, "--shard")
    for _ in range(2):
        assert [run(*call, shard).code for shard in ("1/2", "2/2")] == [0, 0]
    said = CliRunner().invoke(app, ["merge-logs", str(log)]).stdout
    assert "3 images, 1 restored, 2 clean, 0 skipped, 0 failed" in " ".join(said.split())


def test_one_clean_file_goes_to_standard_output_as_it_is(photos: Path) -> None:
    call = ["restore", str(photos / "clean.jpg"), "--out", "-", "--net", "l3-gtsrb"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0
    assert result.stdout_bytes == (photos / "clean.jpg").read_bytes()
    assert "left 1 as they are" in result.stderr


# Noise that another net is for.

COARSE = levels(scene(300, 280) + enlarged_noise((300, 280, 3), 8))


@pytest.fixture
def coarse(photos: Path) -> Path:
    """Returns a folder with two images of coarse noise, a noisy one and two clean ones."""
    for name in ("first.png", "second.png"):
        Image.fromarray(COARSE).save(photos / name)
    return photos


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_files_with_coarse_noise_are_counted_once_and_the_net_for_them_is_named(
    coarse: Path, tmp_path: Path, jobs: str
) -> None:
    log = tmp_path / "log.jsonl"
    call = (coarse, "--out", tmp_path / "out", "--device", "cpu", "--jobs", jobs)
    outcome = run(*call, "--log", log)
    said = "2 files have coarse noise, as those of cameras do, which unet-photos hardly touches; "
    assert f"{said}restore these once more with --net unet-camera --overwrite" in outcome.out.splitlines()
    for name in ("first.png", "second.png"):
        assert f"{coarse / name}: coarse noise about " in outcome.out
    assert outcome.out.count("unet-camera") == 1
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {Path(row["file"]).name for row in rows if row["coarse_noise"]} == {"first.png", "second.png"}
    before = read_image_file(tmp_path / "out" / "first.png").pixels
    again = run(*call, "--net", "unet-camera", "--overwrite")
    assert "restored 3 of 5 images" in again.out
    assert "coarse noise" not in again.out
    clean, after = scene(300, 280), read_image_file(tmp_path / "out" / "first.png").pixels
    assert np.square(after - clean).mean() < 0.5 * np.square(before - clean).mean(), "as it is said"


def test_a_net_for_signs_says_nothing_of_it(coarse: Path, tmp_path: Path) -> None:
    outcome = run(coarse, "--out", tmp_path / "out", "--net", "l3-gtsrb")
    assert "if it is coarse" in outcome.out
    assert "unet-camera" not in outcome.out


def test_to_standard_output_nothing_is_overwritten(coarse: Path) -> None:
    call = ["restore", str(coarse / "first.png"), "--out", "-", "--device", "cpu"]
    said = "1 file has coarse noise, as those of cameras do, which unet-photos hardly touches; "
    assert f"{said}--net unet-camera is for such files" in CliRunner().invoke(app, call).stderr


# Previews.


def test_previews_name_the_net_for_coarse_noise_once(coarse: Path, tmp_path: Path) -> None:
    call = (coarse, "--out", tmp_path / "out", "--device", "cpu", "--preview")
    outcome = run(*call)
    said = "have coarse noise, as those of cameras do, which unet-photos hardly touches; "
    assert f"{said}--net unet-camera is for such files" in outcome.out
    assert outcome.out.count("unet-camera") == 1
    assert "unet-camera" not in run(*call, "--overwrite", "--net", "unet-camera").out


@pytest.mark.parametrize("place", ["--out", "--in-place", ""])
def test_a_preview_writes_one_picture_and_nothing_else(
    photos: Path, tmp_path: Path, smoothing: Path, place: str
) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    out = tmp_path / "out"
    places: dict[str, list[str | Path]] = {"--out": ["--out", out], "--in-place": ["--in-place"], "": []}
    arguments = places[place]
    outcome = run(photos / "noisy.png", *arguments, "--net", smoothing, "--preview", "--log", tmp_path / "l")
    assert outcome.code == 0, outcome.err
    folder = out if place == "--out" else photos
    picture = folder / "noisy.png.preview.png"
    said = " ".join(outcome.out.split())
    level = noise_level(NOISY, GaussianSmoothing(sigma_pixels=1.0))
    assert f"{photos / 'noisy.png'}: {level}" in said
    assert f"{picture} shows 256x256 pixels at left " in said
    assert "wrote 1 previews, and no other file" in said
    assert {path: path.read_bytes() for path in photos.rglob("*.*") if path != picture} == before
    assert not (tmp_path / "l").exists()
    assert [*folder.glob("*.preview.png")] == [picture]
    if place == "--out":
        assert [*out.iterdir()] == [picture]
    after = read_image_file(picture).pixels[-512::2, -512::2]
    left, top = (int(said.partition(f"{side} ")[2].split()[0].rstrip(",")) for side in ("left", "top"))
    whole = restore(NOISY, GaussianSmoothing(sigma_pixels=1.0))
    assert abs(whole[top : top + 256, left : left + 256].astype(int) - after).max() <= 1


def test_up_to_four_files_of_a_folder_are_shown_and_clean_ones_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        Image.fromarray(levels(scene(140, 150, seed=number))).save(folder / f"{number}.png")
    (folder / "0.png").write_bytes(b"no image")
    outcome = run(folder, "--out", tmp_path / "out", "--net", "l3-gtsrb", "--preview")
    assert outcome.code == 1, "one cannot be read"
    assert "0.png is not an image of a known format" in outcome.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{number}.png.preview.png" for number in (2, 4, 6)]
    assert outcome.out.count("it would stay as it is") == 3
    said = " ".join(outcome.out.split())
    assert "wrote 3 previews, and no other file; 5 other images are not shown, name some" in said


def test_a_preview_is_overwritten_only_if_asked_to_and_is_not_restored_itself(
    photos: Path, smoothing: Path
) -> None:
    call = (photos / "noisy.png", "--in-place", "--net", smoothing, "--preview")
    assert run(*call).code == 0
    picture = photos / "noisy.png.preview.png"
    first = picture.read_bytes()
    outcome = run(*call, "--strength", "0.5")
    assert (outcome.code, picture.read_bytes()) == (2, first)
    assert "noisy.png.preview.png exists; --overwrite replaces it" in " ".join(outcome.err.split())
    assert run(*call, "--strength", "0.5", "--overwrite").code == 0
    assert picture.read_bytes() != first
    shown = picture.read_bytes()
    assert "of 3 images" in run(photos, "--in-place", "--net", smoothing, "--always").out
    assert picture.read_bytes() == shown


def test_a_preview_never_takes_the_place_of_an_input(photos: Path, smoothing: Path) -> None:
    other = photos / "noisy.png.preview.png"
    Image.fromarray(NOISY).save(other)
    before = other.read_bytes()
    call = (photos / "noisy.png", other, "--in-place", "--net", smoothing, "--preview", "--overwrite")
    outcome = run(*call)
    assert outcome.code == 2
    assert "would be written over an input file" in " ".join(outcome.err.split())
    assert other.read_bytes() == before


def test_a_preview_needs_a_place(photos: Path, smoothing: Path) -> None:
    outcome = run(photos / "noisy.png", "--out", "-", "--net", smoothing, "--preview")
    assert outcome.code == 2
    assert "--preview writes a file, not to standard output" in " ".join(outcome.err.split())
