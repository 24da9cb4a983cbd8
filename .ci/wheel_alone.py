"""Installs the wheel alone into a clean environment and uses it there.

Usage: python .ci/wheel_alone.py dist

The environment is a new venv outside the source tree. The package surely comes from the wheel, which is
installed there by pip and is asserted to be what Python imports. What it depends on is not downloaded again,
for PyTorch alone has gigabytes: the distributions that the wheel's metadata asks for, and those that these
ask for in turn, are linked from the environment that runs this script, which pip filled with the pinned
versions. Nothing else is linked, so a dependency that the metadata forgets is missing there too.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "steadylens"

USE = """
import sys

import torch

import steadylens

assert steadylens.__file__.startswith(sys.prefix), steadylens.__file__
images = torch.rand(2, 3, 48, 48)
assert steadylens.restore(images, "l3-gtsrb").shape == images.shape
assert steadylens.load("fused-gtsrb")(images).shape == (2, 43)
print("restored and classified by", steadylens.__file__)
"""

PROMISED = ("*.safetensors", "py.typed", "__init__.pyi", "report/templates/*", "serving/templates/*")


def main(folder: Path) -> None:
    """Checks what the wheel holds, installs it alone, and uses it."""
    (wheel,) = folder.glob("*.whl")
    check_contents(wheel)
    with tempfile.TemporaryDirectory() as place:
        clean = Path(place).resolve() / "venv"
        venv.create(clean, with_pip=False)
        python = clean / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python))
        run(*pip, "install", "--no-deps", "--no-index", str(wheel), where=place)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(clean), "platbase": str(clean)}))
        (metadata,) = site.glob("steadylens-*.dist-info")
        for needed in needed_by(Distribution.at(metadata)).values():
            link(needed, site)
        run(str(python), "-I", "-c", USE, where=place)
        run(str(clean / "bin" / "steadylens"), "--help", where=place)
        run(str(python), "-I", "-m", "steadylens", "--version", where=place)


def check_contents(wheel: Path) -> None:
    """Refuses a wheel that lacks a file of the source, or holds one more."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if packed != source:
        sys.exit(f"{wheel} lacks {sorted(source - packed)} and has {sorted(packed - source)} too many")
    if absent := [kind for kind in PROMISED if not any(PurePosixPath(name).match(kind) for name in packed)]:
        sys.exit(f"{wheel} holds no {', '.join(absent)}")


def needed_by(package: Distribution) -> dict[str, Distribution]:
    """Returns all that a distribution depends on, by name, without its extras."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(package, "")]
    while waiting:
        holder, extra = waiting.pop()
        for line in holder.requires or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            found[name] = distribution(requirement.name)
            steps = {(name, each) for each in ("", *requirement.extras)} - seen
            seen |= steps
            waiting += [(found[name], each) for _, each in steps]
    return found


def link(package: Distribution, site: Path) -> None:
    """Links the top folders and modules of a distribution into another environment."""
    for top in sorted({file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}):
        if not top.endswith(".pth") and not (site / top).exists():
            (site / top).symlink_to(Path(str(package.locate_file(top))).resolve())


def run(*command: str, where: str) -> None:
    """Runs a command outside the source tree, with nothing of this environment's variables for Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(command, check=True, cwd=where, env=kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
