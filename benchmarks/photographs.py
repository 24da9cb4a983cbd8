"""Measures restorers on photographs: Gaussian noise on CBSD68 in two forms, clean images, and real noise.

Float noise is the usual protocol: Gaussian noise is added to the clean image and neither clipped nor
rounded. The restored image is clipped to [0, 1], but not rounded, before PSNR and SSIM. Stored noise is
what a file holds: the noisy image is clipped and rounded to 8 bits, and so is the restored one. Sigma 0 is
the clean image itself. Real noise are pairs of a photograph NAME_real.png and the mean of many,
NAME_mean.png, as in CC15; what is restored is rounded to 8 bits, too. Every method gets the same noise,
whose seed follows from the name of the image and from sigma.

Methods that are told sigma get the true one, and of real noise the root mean square of the pair's
difference. The setting of a classical method is the best one on some of the very images. Clean images are
restored by the blind methods alone. Every PSNR and SSIM is kept, a line for each method and kind of noise,
in a file beside the result: NAME-images.jsonl. What has a line there with the same weights and images is
not measured again, so that a run that was stopped goes on.

    python benchmarks/photographs.py --net unet-gtsrb l11-gtsrb --cbsd68 DIR --cc15 DIR
        --dncnn GD_Color_Blind.mat --ffdnet FFDNet_color.mat --out results/benchmarks/photographs.json
"""

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rivals import CLASSICAL, Classical, published_dncnn, published_ffdnet, slow_classical
from skimage.metrics import structural_similarity
from torch import Tensor
from writing import publish

from steadylens.checkpoints.checkpoint import fingerprint
from steadylens.checkpoints.loading import load_net
from steadylens.devices import evaluating
from steadylens.files import replacing
from steadylens.images.tensors import (
    GREY_LEVELS,
    array_to_tensor,
    read_image,
    tensor_to_array,
    to_float,
    to_uint8,
)
from steadylens.metrics import psnr
from steadylens.nets.facts import RESTORING
from steadylens.randomness import derived_generator

SIGMAS_GREY = (5, 10, 15, 25, 50, 75)
"""Strengths of the noise in grey levels; 0, the clean image, comes before them."""

FLOAT, STORED, REAL = "float noise", "stored noise", "real noise"

NORMAL_95 = 1.959964


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind of noise.

    Attributes:
        noise: `FLOAT`, `STORED` or `REAL`.
        sigma_grey: Standard deviation in grey levels; None for real noise.
    """

    noise: str
    sigma_grey: int | None

    def __str__(self) -> str:
        """Returns its name in messages."""
        return self.noise if self.sigma_grey is None else f"{self.noise}, sigma {self.sigma_grey}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A clean image, and what is to be restored: float (1, 3, H, W)."""

    name: str
    clean: Tensor
    noisy: Tensor
    sigma_grey: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """Something that restores.

    Attributes:
        name: Its name in the tables.
        version: Changes whenever its results may change: a hash of weights, or the version of a library.
        told: Whether it is told the strength of the noise.
        restore: (image (1, 3, H, W), sigma in grey levels, setting) -> restored image.
        settings: What may be tried.
        slow: Whether it gets a few images only.
    """

    name: str
    version: str
    told: bool
    restore: Callable[[Tensor, float, float], Tensor]
    settings: Sequence[float] = (1.0,)
    slow: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one method does with one kind of noise.

    Attributes:
        method: Name of the method.
        version: See `Method`.
        told_sigma: Whether it was told the strength of the noise.
        noise: See `Case`.
        sigma_grey: See `Case`.
        setting: The setting that was best.
        images: Names of the images, in the order of the values.
        psnr_db: PSNR of each image; None where nothing differs.
        ssim: SSIM of each image.
        largest_error_grey: The largest error of a value of each image, in grey levels.
        seconds: How long restoring took, all images together.
    """

    method: str
    version: str
    told_sigma: bool
    noise: str
    sigma_grey: int | None
    setting: float
    images: list[str]
    psnr_db: list[float | None]
    ssim: list[float]
    largest_error_grey: list[float]
    seconds: float

    @property
    def key(self) -> tuple[object, ...]:
        """What tells whether this was measured before."""
        return (self.method, self.version, self.noise, self.sigma_grey, *self.images)

    @property
    def finite_db(self) -> list[float]:
        """The PSNR of the images that differ."""
        return [value for value in self.psnr_db if value is not None]


# Images.


def evenly_spaced(paths: Sequence[Path], count: int | None) -> list[Path]:
    """Returns `count` of the files, evenly spaced and with the first of them; all for None."""
    if count is None or count >= len(paths):
        return list(paths)
    return [paths[len(paths) * number // count] for number in range(count)]


def noisy_pairs(paths: Sequence[Path], case: Case) -> Iterator[Pair]:
    """Yields the images of CBSD68 with noise, or the pairs of CC15 as they are."""
    for path in paths:
        if case.sigma_grey is None:
            clean = to_float(read_image(path.with_name(path.name.replace("_real.", "_mean."))))[None]
            noisy = to_float(read_image(path))[None]
            sigma_grey = GREY_LEVELS * float((noisy - clean).square().mean().sqrt())
            yield Pair(name=path.stem, clean=clean, noisy=noisy, sigma_grey=sigma_grey)
            continue
        clean = to_float(read_image(path))[None]
        generator = derived_generator(0, "photographs", path.stem, case.sigma_grey)
        noisy = clean + torch.randn(clean.shape, generator=generator) * (case.sigma_grey / GREY_LEVELS)
        noisy = to_float(to_uint8(noisy)) if case.noise == STORED else noisy
        yield Pair(name=path.stem, clean=clean, noisy=noisy, sigma_grey=case.sigma_grey)


# Methods.


def net_named(source: str) -> Method:
    """Returns one of our restorers: packaged, or a file."""
    loaded = load_net(source, task=RESTORING)
    net = loaded.module.requires_grad_(False).to(memory_format=torch.channels_last)

    def restore(noisy: Tensor, sigma_grey: float, setting: float) -> Tensor:
        with torch.inference_mode(), evaluating(net):
            found: Tensor = net(noisy)
        return found

    name = Path(source).stem if Path(source).suffix else source
    return Method(name=name, version=fingerprint(net), told=False, restore=restore)


def published_nets(dncnn: Path | None, ffdnet: Path | None) -> Iterator[Method]:
    """Yields the well-known nets with their authors' weights, those of which the file is given."""
    if dncnn is not None:
        blind = published_dncnn(dncnn).to(memory_format=torch.channels_last)
        yield Method(
            name="CDnCNN-B",
            version=_hash_of(dncnn),
            told=False,
            restore=torch.inference_mode()(lambda noisy, sigma_grey, setting: blind(noisy)),
        )
    if ffdnet is not None:
        told = published_ffdnet(ffdnet).to(memory_format=torch.channels_last)
        yield Method(
            name="FFDNet",
            version=_hash_of(ffdnet),
            told=True,
            restore=torch.inference_mode()(lambda noisy, sigma_grey, setting: told(noisy, sigma_grey)),
        )


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def classical_methods() -> Iterator[Method]:
    """Yields the classical methods, and BM3D where it is installed."""
    libraries = {"OpenCV": "opencv-python", "scikit-image": "scikit-image", "BM3D": "bm3d"}
    slow = slow_classical()
    for name, method in {**CLASSICAL, **slow}.items():
        yield Method(
            name=name,
            version=version(libraries[name.partition(" ")[0]]),
            told=True,
            restore=_on_tensors(method),
            settings=method.settings,
            slow=name in slow,
        )


def _on_tensors(method: Classical) -> Callable[[Tensor, float, float], Tensor]:
    def restore(noisy: Tensor, sigma_grey: float, setting: float) -> Tensor:
        picture = tensor_to_array(noisy[0]).copy(order="C")
        return array_to_tensor(method.restore(picture, sigma_grey, setting))[None]

    return restore


NOISY = Method(name="noisy", version="", told=False, restore=lambda noisy, sigma_grey, setting: noisy)


# Measuring.


def measured(method: Method, case: Case, paths: Sequence[Path], chosen_on: int) -> Row:
    """Returns what a method does with one kind of noise, with its best setting."""
    setting = method.settings[0]
    if len(method.settings) > 1:
        some = evenly_spaced(paths, chosen_on)
        setting = max(
            method.settings, key=lambda tried: statistics.fmean(_psnr_of(method, case, some, tried))
        )
    values: list[tuple[float, float, float]] = []
    names: list[str] = []
    seconds = 0.0
    for pair in noisy_pairs(paths, case):
        begin = time.perf_counter()
        restored = method.restore(pair.noisy, pair.sigma_grey, setting)
        seconds += time.perf_counter() - begin
        values.append(quality(_as_judged(restored, case), pair.clean))
        names.append(pair.name)
    return Row(
        method=method.name,
        version=method.version,
        told_sigma=method.told,
        noise=case.noise,
        sigma_grey=case.sigma_grey,
        setting=setting,
        images=names,
        psnr_db=[None if math.isinf(value) else round(value, 4) for value, _, _ in values],
        ssim=[round(value, 5) for _, value, _ in values],
        largest_error_grey=[round(value, 2) for _, _, value in values],
        seconds=round(seconds, 2),
    )


def _psnr_of(method: Method, case: Case, paths: Sequence[Path], setting: float) -> Iterator[float]:
    for pair in noisy_pairs(paths, case):
        restored = method.restore(pair.noisy, pair.sigma_grey, setting)
        yield float(psnr(_as_judged(restored, case), pair.clean))


def _as_judged(restored: Tensor, case: Case) -> Tensor:
    return restored.clamp(0, 1) if case.noise == FLOAT else to_float(to_uint8(restored))


def quality(restored: Tensor, clean: Tensor) -> tuple[float, float, float]:
    """Returns PSNR in dB, SSIM, and the largest error in grey levels of one image (1, 3, H, W).

    SSIM is that of Wang et al. (2004), with a Gaussian window of 1.5 pixels; the mean over the channels.
    """
    similarity: Callable[..., Any] = structural_similarity
    ssim = similarity(
        tensor_to_array(restored[0]),
        tensor_to_array(clean[0]),
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    largest = GREY_LEVELS * float((restored - clean).abs().max())
    return float(psnr(restored, clean)), float(ssim), largest


def all_rows(
    methods: Sequence[Method],
    cases: Mapping[Case, Sequence[Path]],
    kept: Path | None,
    *,
    slow_images: int,
    chosen_on: int,
) -> list[Row]:
    """Measures every method with every kind of noise, and keeps each row in a file as soon as it is there.

    Args:
        methods: What restores.
        cases: Kinds of noise, and the images of each.
        kept: The file of rows; those that were measured before are taken from it, and rows of other methods
            stay there. None for no file.
        slow_images: How many images a slow method gets.
        chosen_on: On how many images the setting of a method is chosen.
    """
    before = {row.key: row for row in (read_rows(kept) if kept is not None and kept.exists() else [])}
    found: list[Row] = []
    for case, all_paths in cases.items():
        for method in methods:
            if case.sigma_grey == 0 and (method.told or method is NOISY):
                continue
            paths = evenly_spaced(all_paths, slow_images if method.slow else None)
            key = (method.name, method.version, case.noise, case.sigma_grey, *(path.stem for path in paths))
            if (row := before.get(key)) is None:
                row = measured(method, case, paths, chosen_on)
                before = {other: of for other, of in before.items() if not _is_replaced(of, row)}
                before[key] = row
                if kept is not None:
                    write_rows(kept, before.values())
            found.append(row)
            mean = f"{statistics.fmean(row.finite_db):.2f} dB" if row.finite_db else "no error"
            print(f"{case}: {method.name}: {mean}, {len(paths)} images, {row.seconds:.0f} s", flush=True)
    return found


def _is_replaced(old: Row, new: Row) -> bool:
    """Whether a row is of the same method and noise as a new one."""
    return (old.method, old.noise, old.sigma_grey) == (new.method, new.noise, new.sigma_grey)


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a file."""
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows to a file, a line each."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


# Tables.


def summary(rows: Sequence[Row]) -> dict[str, object]:
    """Returns the tables: means of all images, and differences of the first method to the others."""
    tables: dict[str, object] = {}
    for noise in (FLOAT, STORED):
        noisy = [row for row in rows if row.noise == noise and row.sigma_grey]
        if noisy:
            tables[f"CBSD68, {noise}: PSNR in dB"] = _by_sigma((row, f"{_mean_db(row):.2f}") for row in noisy)
            tables[f"CBSD68, {noise}: SSIM"] = _by_sigma(
                (row, f"{statistics.fmean(row.ssim):.4f}") for row in noisy
            )
            first = {row.sigma_grey: row for row in noisy if row.method == _first_net(rows)}
            tables[f"CBSD68, {noise}: gain of {_first_net(rows)} in dB"] = _by_sigma(
                (row, difference(first[row.sigma_grey], row)) for row in noisy if row not in first.values()
            )
    if clean := [row for row in rows if row.sigma_grey == 0]:
        tables["CBSD68, clean images"] = [_harm(row) for row in clean]
    if real := [row for row in rows if row.noise == REAL]:
        (first_real,) = (row for row in real if row.method == _first_net(rows))
        tables["CC15, real noise"] = [
            {
                **_about(row),
                "PSNR in dB": f"{_mean_db(row):.2f}",
                "SSIM": f"{statistics.fmean(row.ssim):.4f}",
                f"gain of {_first_net(rows)} in dB": "" if row is first_real else difference(first_real, row),
            }
            for row in real
        ]
    return tables


def _first_net(rows: Sequence[Row]) -> str:
    return next(row.method for row in rows if row.method != NOISY.name)


def _about(row: Row) -> dict[str, object]:
    return {"method": row.method, "told sigma": row.told_sigma, "images": len(row.images)}


def _mean_db(row: Row) -> float:
    return statistics.fmean(row.finite_db)


def _by_sigma(cells: Iterable[tuple[Row, str]]) -> list[dict[str, object]]:
    """Returns a row for each method, with a column for each strength."""
    table: dict[str, dict[str, object]] = {}
    for row, cell in cells:
        table.setdefault(row.method, _about(row))[f"sigma {row.sigma_grey}"] = cell
    return list(table.values())


def _harm(row: Row) -> dict[str, object]:
    """Returns what a method does to clean images; those that it leaves as they are have no PSNR."""
    return {
        "method": row.method,
        "after restoring": "clipped" if row.noise == FLOAT else "rounded to 8 bits",
        "images": len(row.images),
        "left as they are": len(row.images) - len(row.finite_db),
        "mean PSNR of the others in dB": f"{_mean_db(row):.2f}" if row.finite_db else "",
        "lowest": f"{min(row.finite_db):.2f}" if row.finite_db else "",
        "largest error of a value in grey levels": f"{max(row.largest_error_grey):.0f}",
        "median of the images' largest": f"{statistics.median(row.largest_error_grey):.1f}",
    }


def difference(first: Row, second: Row) -> str:
    """Returns the mean difference in PSNR over the images of both, with a 95 % interval over images."""
    other = dict(zip(second.images, second.psnr_db, strict=True))
    pairs = [(mine, other.get(name)) for name, mine in zip(first.images, first.psnr_db, strict=True)]
    each = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    half = NORMAL_95 * statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return f"{statistics.fmean(each):+.2f} \N{PLUS-MINUS SIGN} {half:.2f}"


def main() -> None:
    """Measures, prints the tables, and writes them to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--net", nargs="+", required=True, help="our restorers, packaged or files; the first is compared"
    )
    parser.add_argument("--cbsd68", type=Path, help="folder of CBSD68's clean PNG files")
    parser.add_argument("--cc15", type=Path, help="folder of CC15's NAME_real.png and NAME_mean.png")
    parser.add_argument("--dncnn", type=Path, help="GD_Color_Blind.mat of cszn/DnCNN: CDnCNN-B")
    parser.add_argument("--ffdnet", type=Path, help="FFDNet_color.mat of cszn/FFDNet")
    parser.add_argument("--images", type=int, help="only so many images of each set, evenly spaced")
    parser.add_argument("--slow-images", type=int, default=9, help="images of each set for BM3D")
    parser.add_argument("--chosen-on", type=int, default=9, help="images on which settings are chosen")
    parser.add_argument("--sigmas", type=int, nargs="+", default=SIGMAS_GREY, help="strengths in grey levels")
    parser.add_argument("--no-classical", action="store_true", help="leave the classical methods out")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch and OpenCV")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    methods = [
        NOISY,
        *map(net_named, given.net),
        *published_nets(given.dncnn, given.ffdnet),
        *([] if given.no_classical else classical_methods()),
    ]
    cases: dict[Case, Sequence[Path]] = {}
    if given.cbsd68 is not None:
        clean = evenly_spaced(sorted(given.cbsd68.glob("*.png")), given.images)
        for noise in (FLOAT, STORED):
            cases |= {Case(noise=noise, sigma_grey=sigma): clean for sigma in (0, *given.sigmas)}
    if given.cc15 is not None:
        cases[Case(noise=REAL, sigma_grey=None)] = evenly_spaced(
            sorted(given.cc15.glob("*_real.png")), given.images
        )
    kept = None if given.out is None else given.out.with_name(f"{given.out.stem}-images.jsonl")
    rows = all_rows(methods, cases, kept, slow_images=given.slow_images, chosen_on=given.chosen_on)
    versions = {library: version(library) for library in ("torch", "scikit-image", "opencv-python")}
    publish({**versions, **summary(rows)}, given.out)


if __name__ == "__main__":
    main()
