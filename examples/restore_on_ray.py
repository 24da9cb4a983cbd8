"""
Restore many images on a cluster
================================

`Ray <https://docs.ray.io>`_ gives the images of a folder or of an object store to as many workers as you
like, on one machine or on many. Each worker loads the net once. If a worker dies, Ray starts another one and
gives it the same images; those that were restored before are left alone, so nothing is lost and nothing is
done twice. If the script itself is stopped, call it again.

.. code-block:: sh

   pip install 'steadylens[ray]'
   python restore_on_ray.py photos restored --workers 4
   python restore_on_ray.py s3://bucket/photos s3://bucket/restored --workers 64 --gpus 1   # needs s3fs

This script was not run for this page, since it takes images of yours. The page
:doc:`Restoring on many machines </bulk>` says more.
"""

import argparse
import math
import os
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from steadylens import SteadylensError, restorer_of
from steadylens.images.tensors import IMAGE_SUFFIXES
from steadylens.inference import RestoreJob, RestoreSettings, restore_file

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: Ray shall report to nobody

import ray
import ray.data

OBJECT_STORES = {"abfs", "abfss", "az", "gcs", "gs", "s3", "s3a"}
FILES_AT_A_TIME = 16

# %%
# Two listings tell what is left to do. Files and stores are named by URLs, as fsspec knows them; a plain path
# is a folder that all workers must see.


def images_in(url: str) -> set[str]:
    """Returns the paths of the images in a folder, relative to it; hidden ones are left out."""
    files, folder = url_to_fs(url)
    names = {path.removeprefix(folder).lstrip("/") for path in files.find(folder)}
    endings = tuple(IMAGE_SUFFIXES)
    return {name for name in names if name.lower().endswith(endings) and "/." not in f"/{name}"}


# %%
# A worker copies an image to its own disk, restores it there with all of its bits and metadata, and copies
# the result back. In an object store, an object appears when it is complete. Elsewhere a file is written
# under a hidden name and then renamed. So nobody ever sees half an image.


class Restoring:
    """Restores images; a worker makes one of these and calls it again and again."""

    def __init__(self, source: str, out: str, net: str) -> None:
        self.source, self.source_folder = url_to_fs(source)
        self.out, self.out_folder = url_to_fs(out)
        self.restorer, self.settings = restorer_of(net), RestoreSettings()

    def __call__(self, batch: dict[str, Iterable[Any]]) -> dict[str, list[str]]:
        """Returns what became of the images with these names."""
        names = [str(name) for name in batch["item"]]
        states, reasons = zip(*map(self.restored, names), strict=True)
        return {"name": names, "state": [*states], "reason": [*reasons]}

    def restored(self, name: str) -> tuple[str, str]:
        """Restores an image, unless a worker that died has done so; returns the state and the reason."""
        self.out.invalidate_cache()
        if self.out.exists(f"{self.out_folder}/{name}"):
            return "there already", ""
        with tempfile.TemporaryDirectory() as folder:
            before = Path(folder, f"before{Path(name).suffix}")
            job = RestoreJob(source=before, target=Path(folder, f"after{before.suffix}"))
            try:
                self.source.get_file(f"{self.source_folder}/{name}", str(before))
                made = restore_file(job, self.restorer, settings=self.settings)
                self.publish(job.target, f"{self.out_folder}/{name}")
            except (SteadylensError, OSError) as error:  # one bad image stops no other
                return "failed", str(error).replace(str(before), name)
        return "clean" if made.clean else "restored", ""

    def publish(self, made: Path, target: str) -> None:
        """Copies a result to its place, where it appears complete."""
        if self.out.protocol in OBJECT_STORES or OBJECT_STORES & {*self.out.protocol}:
            self.out.put_file(str(made), target)
            return
        folder, _, name = target.rpartition("/")
        hidden = f"{folder}/.{secrets.token_hex(8)}-{name}"
        self.out.makedirs(folder, exist_ok=True)
        self.out.put_file(str(made), hidden)
        self.out.mv(hidden, target)


# %%
# Ray's ``map_batches`` does the rest. Only names travel; images go straight from the store to the workers.


def restore_all(
    names: list[str],
    worker: type[Restoring],
    arguments: tuple[str, str, str],
    *,
    workers: int,
    gpus: float = 0,
) -> Iterable[dict[str, str]]:
    """Yields what became of each image, as soon as its batch is done."""
    workers = min(workers, len(names))
    blocks = max(workers, math.ceil(len(names) / FILES_AT_A_TIME))
    results = ray.data.from_items(names, override_num_blocks=blocks).map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=None,  # what a worker gets at a time
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
    )
    yield from results.iter_rows()


def connect(workers: int) -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine."""
    if os.environ.get("RAY_ADDRESS"):
        ray.init()
    else:
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=2**27)


def main() -> None:
    """Restores what is left to restore."""
    parser = argparse.ArgumentParser(
        description="Restore the images of a folder or an object store with Ray."
    )
    parser.add_argument("source", help="folder or URL of the images")
    parser.add_argument("out", help="folder or URL to write to")
    parser.add_argument("--net", default="unet-gtsrb", help="a packaged net, or a file that all workers see")
    parser.add_argument("--workers", type=int, default=2, help="how many images are restored at a time")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a worker, such as 1 or 0.5")
    given = parser.parse_args()
    source, out = (
        url.rstrip("/") if "://" in url else str(Path(url).absolute()) for url in (given.source, given.out)
    )
    if f"{out}/".startswith(f"{source}/") or given.workers < 1:
        parser.error("out must not lie in source, and there must be a worker")
    names, done = images_in(source), images_in(out)
    print(f"{len(names & done)} of {len(names)} images are restored already")
    if not names - done:
        return
    connect(given.workers)
    states: Counter[str] = Counter()
    arguments = (source, out, given.net)
    for row in restore_all(
        sorted(names - done), Restoring, arguments, workers=given.workers, gpus=given.gpus
    ):
        states[row["state"]] += 1
        if row["state"] == "failed":
            print(f"error: {row['name']}: {row['reason']}", file=sys.stderr)
    print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    sys.exit(1 if states["failed"] else 0)


if __name__ == "__main__":
    main()
