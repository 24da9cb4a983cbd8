"""The command serves both pages at one address, offline, and ends in an orderly way."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steadylens.checkpoints.checkpoint import TrainingInfo
from steadylens.checkpoints.loading import LoadedNet
from steadylens.cli.main import app
from steadylens.nets.restoration import RestorationNet
from steadylens.serving.pages.site import learned_photographs
from tests.serving.pages.sites import Site, started


def test_a_net_has_learned_from_photographs_if_its_file_says_so() -> None:
    net = LoadedNet(name="net", module=RestorationNet(depth=3), info=TrainingInfo(data="photographs"))
    assert learned_photographs(net)
    assert not learned_photographs(replace(net, info=TrainingInfo(data="gtsrb")))
    assert not learned_photographs(replace(net, info=TrainingInfo()))


def test_a_net_for_signs_opens_the_page_for_classifiers_and_each_page_leads_to_the_other(site: Site) -> None:
    site.visit("/")
    assert site.browser.current_url == f"{site.address}/classifiers/"
    site.wait_for(lambda: site.shown("#result .card"))  # until then, the page covers its links
    site.find("nav a").click()
    site.wait_for(lambda: site.shown("#drop"))
    assert site.browser.current_url == f"{site.address}/photographs"
    site.find("nav a:last-child").click()
    site.wait_for(lambda: site.shown("#result .card"))


@pytest.mark.parametrize("path", ["/photographs", "/classifiers/"])
def test_everything_is_loaded_from_this_machine(path: str, site: Site) -> None:
    site.browser.get_log("browser")  # type: ignore[no-untyped-call]
    site.visit(path)
    site.wait_for(lambda: site.shown("#drop, #result .card"))
    asked: list[str] = site.browser.execute_script(
        "return performance.getEntriesByType('resource').map(resource => resource.name)"
    )
    assert len(asked) >= 2
    assert [url for url in asked if not url.startswith((site.address, "data:", "blob:"))] == []
    # The browser's log would hold what the policy has blocked.
    entries: list[dict[str, Any]] = site.browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry["message"] for entry in entries if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_address_stops_it_too_without_the_library_of_the_service_alone(
    number: signal.Signals, tmp_path: Path
) -> None:
    with started(tmp_path, absent="prometheus_client") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("open http://127.0.0.1:")
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopped\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--net", "l12-gtsrb"), "there is no net 'l12-gtsrb'"),
        (("--fused", "sign-gtsrb"), "no fused classifier"),
        (("--port", "70000"), "choose another --port"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(arguments: tuple[str, str], told: str) -> None:
    result = CliRunner().invoke(app, ["app", "--port", "0", *arguments])
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["gradio", "fastapi", "starlette.datastructures", "uvicorn"])
def test_without_the_extra_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.delitem(sys.modules, "steadylens.serving.pages.site", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(app, ["app"])
    assert result.exit_code == 2
    library = module.partition(".")[0]
    told = f"{library} is not installed; install it with: pip install 'steadylens[app]'"
    assert told in result.stderr
