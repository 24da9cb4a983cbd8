"""The fastest engine gives the same results as the net, and the times of all engines are reported."""

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from steadylens.errors import SettingError
from steadylens.inference import engines
from steadylens.inference.engines import TIMED_SIZE, EngineTiming, fastest_engine
from steadylens.inference.restorer import restorer_of
from steadylens.nets.classification import SignNet
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet, UnpaddedNet, initialize_xavier

EVERY = {"PyTorch", "ONNX Runtime", "OpenVINO", "OpenVINO, 2 tiles at a time"}


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    made = RestorationNet(3).eval()
    initialize_xavier(made, generator=torch.Generator().manual_seed(0))
    return made


@pytest.fixture(scope="module")
def timing(net: nn.Module) -> EngineTiming:
    return fastest_engine(net, seconds=0.01)


def test_every_engine_that_is_installed_takes_part_and_the_quickest_wins(timing: EngineTiming) -> None:
    assert timing.milliseconds.keys() == EVERY
    assert not timing.left_out
    assert timing.milliseconds[timing.engine.name] == min(timing.milliseconds.values())
    assert all(value > 0 for value in timing.milliseconds.values())


def test_the_choice_is_told_in_a_line_from_the_quickest_on(timing: EngineTiming) -> None:
    text = str(timing)
    assert text.startswith(f"{timing.engine.name} is the fastest on {TIMED_SIZE[0]}x{TIMED_SIZE[1]} pixels (")
    ranked = sorted(timing.milliseconds.items(), key=lambda pair: pair[1])
    places = [text.index(f"{name} {taken:.1f} ms") for name, taken in ranked]
    assert places == sorted(places)
    assert "\n" not in text


def test_the_winner_answers_as_the_net_does_at_any_size(timing: EngineTiming, net: nn.Module) -> None:
    images = torch.rand(2, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(timing.engine(images), net(images).detach(), rtol=0, atol=1e-5)


def test_every_engine_runs_the_valid_form_of_a_net(net: nn.Module) -> None:
    assert isinstance(net, RestorationNet)
    restorer = restorer_of(net, tile=24)
    assert isinstance(restorer.engine, UnpaddedNet)
    timing = fastest_engine(restorer.engine, seconds=0.01)
    assert timing.milliseconds.keys() == EVERY
    images = torch.rand(1, 3, 50, 61, generator=torch.Generator().manual_seed(0))
    found = replace(restorer, engine=timing.engine)(images)
    torch.testing.assert_close(found, net(images).detach(), rtol=0, atol=1e-5)


def test_in_bfloat16_each_engine_that_knows_it_takes_part_and_computes_in_it(net: nn.Module) -> None:
    timing = fastest_engine(net, seconds=0.01, dtype=torch.bfloat16)
    assert timing.milliseconds.keys() == EVERY - {"ONNX Runtime"}
    assert timing.left_out == {"ONNX Runtime": "it computes in float32 alone"}
    images = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(timing.engine(images), net(images).detach(), rtol=0, atol=0.05)


def test_an_engine_that_is_not_installed_is_left_out_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    timing = fastest_engine(GaussianSmoothing(sigma_pixels=0.8).eval(), seconds=0)
    assert (timing.engine.name, set(timing.left_out)) == ("PyTorch", EVERY - {"PyTorch"})
    assert "steadylens[openvino]" in timing.left_out["OpenVINO"]
    assert "without OpenVINO" in str(timing)


class Deceiving(nn.Module):
    """Answers otherwise once it is exported."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 - images if torch.compiler.is_exporting() else images


def test_an_engine_that_answers_otherwise_is_left_out() -> None:
    timing = fastest_engine(Deceiving().eval(), seconds=0)
    assert (timing.engine.name, set(timing.left_out)) == ("PyTorch", EVERY - {"PyTorch"})
    assert all("differs" in reason for reason in timing.left_out.values())


def test_a_classifier_runs_on_one_image_at_a_time() -> None:
    timing = fastest_engine(SignNet(3).eval(), seconds=0)
    assert timing.milliseconds.keys() == {"PyTorch", "ONNX Runtime", "OpenVINO"}


def test_a_net_that_is_not_on_the_cpu_stays_in_pytorch() -> None:
    timing = fastest_engine(RestorationNet(3).eval().to("meta"))
    assert timing.engine.name == "PyTorch"
    assert set(timing.left_out) == {"ONNX Runtime", "OpenVINO"}


def test_a_classifier_of_one_logit_is_refused() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    with pytest.raises(SettingError, match="at least two classes"):
        fastest_engine(net)


def test_an_engine_that_cannot_run_the_net_is_left_out(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no such operator\nat some place")

    monkeypatch.setattr(engines, "OpenVinoEngine", broken)
    timing = fastest_engine(net, seconds=0.01)
    assert timing.milliseconds.keys() == EVERY - set(timing.left_out)
    assert set(timing.left_out.values()) == {"no such operator"}


def test_a_net_that_reads_larger_images_alone_is_timed_on_such() -> None:
    net = GaussianSmoothing(sigma_pixels=45).eval()
    timing = fastest_engine(net, seconds=0.01)
    assert timing.size == (net.margin + 1, net.margin + 1) > TIMED_SIZE
