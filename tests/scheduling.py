"""Which tests run one after the other in the same process, if several processes share them."""

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

SHARING_SERVERS = ("tests/serving", "tests/serving/pages")
"""Folders whose files share servers and a browser, which end with the last test of the folder."""


class ServerScheduling(LoadFileScheduling):  # type: ignore[misc]
    """Gives a process the tests of a file together, or those of a folder whose files share a server."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        folder = file.rpartition("/")[0]
        return folder if folder in SHARING_SERVERS else file
