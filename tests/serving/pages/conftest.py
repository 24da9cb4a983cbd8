"""The site that the tests of its pages share."""

from collections.abc import Iterator

import pytest

from tests.serving.pages.sites import Site, served


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("site")) as site:
        yield site
