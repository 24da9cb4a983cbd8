"""Calls examples/restore_on_ray.py in one session of Ray: as a user does, then with a worker that is killed.

Called with a folder that holds the folders `first` and `second` of images. What became of those of the second
folder is written into `killed/rows`. A store in memory takes the place of one in a network.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from fsspec import filesystem
from restore_on_ray import OBJECT_STORES, Restoring, images_in, main, restore_all

NET = "l3-gtsrb"

STUCK = "3.png"
"""The image at which the worker stays until it is killed."""


class Stuck(Restoring):
    """Stays once before it writes a certain result, and notes each result that it wrote."""

    def publish(self, made: Path, target: str) -> None:
        """Notes the number of the process that is to be killed, or what was written."""
        notes = Path(self.out_folder).parent
        if target.endswith(STUCK) and not (notes / "pid").exists():
            (notes / "new-pid").write_text(str(os.getpid()))
            (notes / "new-pid").rename(notes / "pid")
            time.sleep(600)
        super().publish(made, target)
        with (notes / "written").open("a") as file:
            file.write(f"{Path(target).name}\n")


def kill(folder: Path) -> None:
    """Kills the worker as soon as it is stuck."""
    while not (folder / "pid").exists():
        time.sleep(0.1)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def in_a_store(before: Path, after: Path) -> None:
    """Restores images within a store, by the way of stores and by that of other file systems."""
    store = filesystem("memory")
    store.put(f"{before}/", "/photos/", recursive=True)
    worker = Restoring("memory://photos", "memory://restored", NET)
    names = sorted(images_in("memory://photos"))
    worker({"item": names[:3]})
    OBJECT_STORES.add("memory")
    worker({"item": names[3:]})
    store.get("/restored/", f"{after}/", recursive=True)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    sys.argv = ["restore_on_ray", f"{root}/first", f"{root}/restored", "--net", NET, "--workers", "1"]
    with suppress(SystemExit):
        main()
    source, out = f"{root}/second", f"{root}/killed/out"
    Path(out).mkdir(parents=True)
    threading.Thread(target=kill, args=(root / "killed",), daemon=True).start()
    rows = restore_all(sorted(images_in(source)), Stuck, (source, out, NET), workers=1)
    (root / "killed" / "rows").write_text(json.dumps({row["name"]: row["state"] for row in rows}))
    in_a_store(root / "second", root / "from-store")
