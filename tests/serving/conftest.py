"""The servers that tests share; each test leaves them as it found them."""

from collections.abc import Iterator

import pytest

from tests.serving.servers import MOST_BYTES, MOST_PIXELS, NAME, ORIGIN, SLOTS, Server, serving


@pytest.fixture(scope="package")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = ("--max-bytes", str(MOST_BYTES), "--max-pixels", str(MOST_PIXELS), "--cors-origin", ORIGIN)
    with serving(tmp_path_factory.mktemp("classifier"), "sign-gtsrb", *limits) as server:
        yield server


@pytest.fixture(scope="package")
def shared_restorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bounds = ("--max-queue", str(SLOTS), "--max-wait-ms", "20", "--upload-seconds", "4")
    with serving(tmp_path_factory.mktemp("restorer"), "l3-gtsrb", *bounds, "--host", NAME) as server:
        yield server


@pytest.fixture
def restorer(shared_restorer: Server) -> Iterator[Server]:
    yield shared_restorer
    shared_restorer.release.touch()  # whatever is waiting
    shared_restorer.wait_until_idle()
    shared_restorer.release.unlink()
