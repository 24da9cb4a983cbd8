"""What tests of nets of other libraries share."""

import pytest


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes sure that nothing is fetched, and that saving for a test draws no bars."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
