"""Reports in one folder: what another command measured of the same nets stays, and nothing is lost unsaid."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from steadylens.data.datasets import Dataset
from steadylens.errors import RecordError, SettingError
from steadylens.evaluation import experiments
from steadylens.evaluation.publishing import check_out, publish
from steadylens.evaluation.workflows import certify, compare
from steadylens.nets.classification import FusedClassifier, SignNet
from steadylens.nets.restoration import GaussianSmoothing, initialize_xavier
from steadylens.records import (
    Accuracy,
    Certificate,
    Cost,
    Measurement,
    Provenance,
    Stability,
    read_records,
    write_records,
)
from tests.tiny_runs import Notebook, run_of

pytestmark = pytest.mark.usefixtures("undrawn")


def classifier(seed: int = 0) -> SignNet:
    net = SignNet(classes=4, width=0.1)
    initialize_xavier(net, generator=torch.Generator().manual_seed(seed))
    return net.eval()


def certified(data: Dataset, out: Path, networks: dict[str, nn.Module], versions: int = 12) -> None:
    certify(run_of(data, Notebook()), networks, out, first_versions=2, versions=versions, images=2)


def compared(data: Dataset, out: Path, net: nn.Module) -> None:
    compare(run_of(data, Notebook()), net, {"behind": FusedClassifier(GaussianSmoothing(), net)}, out)


def types_in(out: Path) -> set[type[Measurement]]:
    return {type(record) for record in read_records(out / "records.jsonl")}


def test_compare_and_certify_publish_one_report_of_the_same_nets_in_either_order(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "REPEATS", 1)
    net = classifier()
    compared(tiny_data, tmp_path, net)
    pictures = (tmp_path / "pictures.jsonl").read_text(encoding="utf-8")
    certified(tiny_data, tmp_path, {"alone": net})
    certified(tiny_data, tmp_path, {"behind": FusedClassifier(GaussianSmoothing(), net), "alone": net}, 13)
    assert {Certificate, Accuracy, Stability} <= types_in(tmp_path)
    assert (tmp_path / "pictures.jsonl").read_text(encoding="utf-8") == pictures
    compared(tiny_data, tmp_path, net)
    records = read_records(tmp_path / "records.jsonl")
    found = {(row.network, row.versions) for row in records if isinstance(row, Certificate)}
    assert found == {("alone", 13), ("behind", 13)}, "what was measured again is replaced"
    assert len(records) == len({repr(record) for record in records})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Proven answers within 0.25" in page
    other = classifier(1)
    with pytest.raises(SettingError, match=r"not measured now \(Certificate\).* choose another place"):
        compared(tiny_data, tmp_path, other)
    with pytest.raises(SettingError, match=r"not measured now \(Accuracy, .*would be lost"):
        certified(tiny_data, tmp_path, {"alone": other})
    assert read_records(tmp_path / "records.jsonl") == records


def test_a_report_that_tells_no_networks_is_replaced_only_by_all_that_it_has(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    run = run_of(tiny_data, Notebook())
    write_records(tmp_path / "records.jsonl", [cost_of(run.provenance)])
    check_out(run, tmp_path, networks={"alone": "a"}, measured=[Cost])
    with pytest.raises(SettingError, match="Cost"):
        check_out(run, tmp_path, networks={"alone": "a"}, measured=[Certificate])
    publish([cost_of(run.provenance)], tmp_path, networks={"alone": "a"})
    check_out(run, tmp_path, networks={"alone": "a"}, measured=[Certificate])
    (tmp_path / "networks.json").write_text("[", encoding="utf-8")
    with pytest.raises(RecordError, match=r"networks\.json cannot be read"):
        check_out(run, tmp_path, networks={"alone": "a"})


def cost_of(provenance: Provenance) -> Cost:
    return Cost(
        provenance=provenance, samples=1, seconds=0.0, network="alone", size=48, parameters=1,
        multiplications=1, milliseconds=1.0, training_seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("change", ["seed", "data", "recipe"])
def test_a_report_of_another_run_is_not_replaced(change: str, tiny_data: Dataset, tmp_path: Path) -> None:
    run = run_of(tiny_data, Notebook())
    write_records(tmp_path / "records.jsonl", [cost_of(run.provenance)])
    check_out(run, tmp_path)
    check_out(replace(run, data=replace(tiny_data, source="moved")), tmp_path)
    other = {
        "seed": replace(run, seed=1),
        "data": replace(run, data=replace(tiny_data, test=tiny_data.test.subset([0, 1]))),
        "recipe": replace(run, recipe=replace(run.recipe, name="other")),
    }[change]
    with pytest.raises(SettingError, match=r"records\.jsonl was made with other data, settings or seed"):
        check_out(other, tmp_path)
