"""Fetches the photographs that the packaged nets for photographs were trained on, from public repositories.

Usage: python docs/training_photographs.py DEST
DEST gets the folders cid22 (250 images of Cloudinary's CID22, CC BY-SA 4.0) and cc0 (41, public domain).
Then `steadylens train restorer UNet --recipe photographs --data photographs:DEST --out FILE` trains the net.
Every file is checked against its hash in training_photographs.tsv. Git must be installed.
"""

import csv
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from steadylens.errors import DatasetError
from steadylens.files import replacing

TABLE = Path(__file__).with_suffix(".tsv")

HOST = "https://github.com"

COMMITS = {
    "imazen/codec-corpus": "55decfe826d350815e3af3b5ac69b882fb2943d3",
    "BuddiesOfBudgie/budgie-backgrounds": "82067426f1dde366e9c9038fdbe457c2527525dd",
    "QubesOS/qubes-artwork": "7ed30c8ce3af6a7330d2402dd874bab1fe863572",
    "elementary/wallpapers": "f28b86144ba01d788ac61ad198ca16fa9477913f",
    "pop-os/wallpapers": "03a25a14a76eaf3825b980ab50aad6698c1c5a35",
}
"""The commit of each repository that has the photographs."""


def main(folder: Path, host: str = HOST) -> None:
    """Fetches what is missing in a folder.

    Args:
        folder: Where to write.
        host: Where the repositories are, as git reads it.

    Raises:
        DatasetError: If a file is not the one that the nets were trained on.
        subprocess.CalledProcessError: If git fails.
    """
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    for repository, commit in COMMITS.items():
        wanted = [row for row in rows if row["repository"] == repository]
        missing = [row for row in wanted if not (folder / row["file"]).exists()]
        if not missing:
            continue
        sys.stderr.write(f"{repository}: {len(missing)} photographs\n")
        with tempfile.TemporaryDirectory() as temporary:
            _check_out(f"{host}/{repository}", commit, [row["path"] for row in missing], temporary)
            for row in missing:
                _take(Path(temporary, row["path"]), row["blob"], folder / row["file"])


def _check_out(source: str, commit: str, paths: Sequence[str], folder: str) -> None:
    """Checks out some files of a commit; git fetches these alone."""
    _git("clone", "--quiet", "--filter=blob:none", "--no-checkout", source, folder)
    _git("-C", folder, "checkout", "--quiet", commit, "--", *paths)


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)  # noqa: S603, S607 - git from the search path


def _take(source: Path, blob: str, target: Path) -> None:
    content = source.read_bytes()
    # Git's own hash of a file.
    if hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest() != blob:
        raise DatasetError(
            f"{source.name} is another file than the nets were trained on; remove it from the table"
        )
    with replacing(target) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
