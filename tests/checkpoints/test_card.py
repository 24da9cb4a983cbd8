"""What is said of a net follows from what it is, what it learned from, and what was measured.

A card says what is known of a net, no more: hubs can read it, and its code runs.
"""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

import steadylens
from steadylens.checkpoints.card import Card, card_of, intended_use, limitations
from steadylens.checkpoints.checkpoint import PRETRAINED, TrainingInfo
from steadylens.checkpoints.hub import readme_of
from steadylens.checkpoints.loading import LoadedNet
from steadylens.errors import CheckpointError
from steadylens.images.preprocessing import Fit, Preprocessing
from steadylens.images.tensors import write_image
from steadylens.nets.classification import FusedClassifier, PreparedClassifier, SignNet
from steadylens.nets.facts import CLASSIFYING, RESTORING
from steadylens.nets.restoration import DongNet, GaussianSmoothing, RestorationNet
from steadylens.records import Accuracy, Restoring, Stability, encode
from steadylens.report.paper import TABLE_3, TABLE_4
from tests.sample_records import sample_records

ORIGINS = {
    "restorer": {"name": "l3-gtsrb", "data": "gtsrb:DIR", "licence": "MIT"},
    "classifier": {"name": "timm:NAME"},
}


PAIR = FusedClassifier(nn.Identity(), SignNet())


def loaded(module: nn.Module, about: dict[str, Any]) -> LoadedNet:
    return LoadedNet(name="net", module=module, info=TrainingInfo.of_plain(about, name="net"))


RESTORED = next(row for row in sample_records() if isinstance(row, Restoring) and row.sigma_grey > 0)


@pytest.mark.parametrize(
    ("module", "task", "words"),
    [
        (RestorationNet(depth=7), RESTORING, "A residual net of 7 convolutions"),
        (DongNet(), RESTORING, "without a shortcut"),
        (GaussianSmoothing(), RESTORING, "A fixed Gaussian"),
        (SignNet(classes=9), CLASSIFYING, "A classifier of 9 traffic signs"),
        (PAIR, CLASSIFYING, "A restorer in front of a classifier"),
        (
            PreparedClassifier(nn.Flatten(), Preprocessing(size=8)),
            CLASSIFYING,
            "A classifier of another library",
        ),
        (nn.Identity(), RESTORING, "A net that leaves images as they are"),
        (nn.Flatten(), RESTORING, "A net of type Flatten that restores images"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_net_has_a_purpose_and_a_task(module: nn.Module, task: str, words: str) -> None:
    text = intended_use(loaded(module, {}))
    assert card_of(loaded(module, {})).task == task
    assert words in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("about", "sources"),
    [
        ({}, ()),
        ({"data": "signs", "origins": ORIGINS}, ("signs", "gtsrb:DIR")),
        ({"origins": {"restorer": {"data": "folder:a, gtsrb:DIR"}, "classifier": {"data": "folder:a"}}},
         ("folder:a", "gtsrb:DIR")),
    ],
)  # fmt: skip
def test_the_sources_are_those_of_the_net_and_of_what_it_began_with(
    about: dict[str, Any], sources: tuple[str, ...]
) -> None:
    assert TrainingInfo.of_plain(about, name="net").sources == sources


def test_only_a_pair_that_was_fine_tuned_is_said_to_be() -> None:
    for stage in ("fine-tuning mine", "fusing mine"):
        text = intended_use(loaded(PAIR, {"stage": stage}))
        assert ("fine-tuned" in text) == (stage == "fine-tuning mine")


def test_a_classifier_that_was_tuned_alone_is_not_said_to_have_a_restorer() -> None:
    pair = FusedClassifier(nn.Identity(), SignNet())
    about = {"stage": "fine-tuning mine", "data": "folder:photos", "origins": {"classifier": {"name": "its"}}}
    card = card_of(loaded(pair, about))
    assert card.purpose == "A classifier that was fine-tuned on noisy images, without a restorer."
    assert section(card, "Data").strip() == (
        "The classifier was fine-tuned on `folder:photos`. "
        "Its classifier began as its, with unknown training data."
    )
    assert "restorer" not in section(card, "Data")


@pytest.mark.parametrize("data", ["signs", ""])
def test_only_a_restorer_that_was_tuned_for_its_classifier_is_said_to_be(data: str) -> None:
    text = intended_use(loaded(PAIR, {"stage": "fusing mine", "data": data}))
    assert ("tuned without labels" in text) == bool(data)


def measuring(rows: list[Restoring]) -> LoadedNet:
    return loaded(RestorationNet(depth=3), {"figures": [encode(row) for row in rows]})


def test_the_limits_tell_at_which_strengths_restoring_does_harm() -> None:
    rows = [
        replace(RESTORED, sigma_grey=2, noisy_db=42.0, restored_db=41.5),
        replace(RESTORED, sigma_grey=1, noisy_db=48.0, restored_db=44.25),
        replace(RESTORED, sigma_grey=25, noisy_db=20.7, restored_db=29.7),
        replace(RESTORED, sigma_grey=0, noisy_db=float("inf"), restored_db=45.0),
    ]
    sigma = "\N{GREEK SMALL LETTER SIGMA}"
    limits = list(limitations(measuring(rows)))
    assert (
        "It harms images with slight noise: the mean PSNR falls from 48.00 to 44.25 dB at "
        f"{sigma} = 1, from 42.00 to 41.50 dB at {sigma} = 2."
    ) in limits
    assert "It changes clean images, too: their restored PSNR is 45.00 dB." in limits
    unharmed = [rows[2], replace(rows[3], restored_db=float("inf"))]
    assert not any("becomes worse" in limit or "clean" in limit for limit in limitations(measuring(unharmed)))


@pytest.mark.parametrize(
    ("about", "task", "words", "told"),
    [
        ({"data": "gtsrb:DIR"}, RESTORING, "trained on German traffic signs", True),
        ({"data": "folder:DIR"}, RESTORING, "trained on German traffic signs", False),
        ({"origins": ORIGINS}, CLASSIFYING, "The nets that it was made from were trained on German", True),
        ({"origins": {"restorer": {"name": "mine"}}}, CLASSIFYING, "trained on German traffic signs", False),
        ({"data": "folder:DIR"}, RESTORING, "trained with synthetic additive noise", True),
        ({}, RESTORING, "trained", False),
        ({"stage": "classifier", "data": "signs"}, CLASSIFYING, "not trained for noise", True),
        ({"stage": "classifier", "data": "signs"}, CLASSIFYING, "synthetic additive noise", False),
        ({}, CLASSIFYING, "No safety function should rely on it alone", True),
        ({}, RESTORING, "No safety function should rely on it alone", False),
        ({}, RESTORING, "no defence against attacks", True),
    ],
)
def test_the_limits_are_those_of_its_data_and_its_task(
    about: dict[str, Any], task: str, words: str, *, told: bool
) -> None:
    net = loaded(RestorationNet(depth=3) if task == RESTORING else PAIR, about)
    assert net.task == task
    assert any(words in limit for limit in limitations(net)) == told


PREPARED = PreparedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), Preprocessing(size=8))


ABOUT: dict[str, Any] = {
    "stage": "restorer L3",
    "data": "gtsrb:somewhere",
    "recipe": "fast",
    "seed": 3,
    "commit": "0123abc",
    "versions": {"python": "3.11", "torch": "2.14"},
    "samples": 9_600,
    "seconds": 65.0,
    "classes": ["a", "b"],
}


def card_with(*, module: nn.Module | None = None, **changes: Any) -> Card:
    return card_of(loaded(module or RestorationNet(depth=3), {**ABOUT, **changes}))


def measured(*rows: Restoring) -> Card:
    return card_with(figures=[encode(row) for row in rows])


def section(card: Card, title: str) -> str:
    """Returns the text of a section of a card."""
    return card.markdown().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_hub_reads_the_header_of_a_card(name: str) -> None:
    card = steadylens.card(name)
    data: Any = ModelCard(readme_of(card)).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "steadylens", card.task)
    assert ("traffic-signs" in data.tags) == name.endswith("-gtsrb")
    assert data.model_name == name
    found = {(result.metric_type, result.metric_value) for result in data.eval_results}
    tops = [row for row in card.info.figures if isinstance(row, Accuracy) and row.k == 1]
    psnrs = [row for row in card.info.figures if isinstance(row, Restoring) and row.sigma_grey > 0]
    assert found == {("accuracy", round(row.correct / row.samples, 4)) for row in tops} | {
        ("psnr", round(row.restored_db, 2)) for row in psnrs
    }


@pytest.mark.parametrize("name", ["true", "a: b", '"quoted"', "# no comment", "\N{GREEK SMALL LETTER SIGMA}"])
def test_a_name_of_any_kind_stays_a_text_in_the_header(name: str) -> None:
    card = replace(measured(RESTORED), name=name)
    data: Any = ModelCard(readme_of(card)).data
    assert data.model_name == name


@pytest.mark.parametrize("name", ["l3-gtsrb", "sign-gtsrb", "fused-gtsrb"])
def test_the_code_of_a_card_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(Path("sign.png"), torch.rand(3, 60, 70, generator=torch.Generator().manual_seed(0)))
    (code,) = re.findall(r"```python\n(.*?)```", steadylens.card(name).markdown(), re.DOTALL)
    known: dict[str, Any] = {}
    exec(code, known)  # noqa: S102 - our own text
    if name == "l3-gtsrb":
        assert known["restored"].shape == (1, 3, 60, 70)
    else:
        assert known["label"].shape == (1,)


@pytest.mark.parametrize("name", ["sign-gtsrb", "fused-gtsrb"])
def test_a_classifiers_card_gives_its_figures_with_intervals(name: str) -> None:
    card = steadylens.card(name)
    text = card.markdown()
    for row in card.info.figures:
        if isinstance(row, Accuracy | Stability):
            digits = 2 if isinstance(row, Accuracy) else 1
            share, low, high = (
                f"{100 * value:.{digits}f}" for value in (row.correct / row.samples, row.lower, row.upper)
            )
            assert f" {share} ({low}\N{EN DASH}{high}) |" in text
    assert "million multiply-adds" in text


def test_the_card_of_the_papers_classifier_gives_the_papers_figures_too() -> None:
    text = steadylens.card("sign-gtsrb").markdown()
    assert f"| in the paper | {TABLE_3['single'].top1_percent} |" in text
    assert f"{TABLE_4['original'].overall_percent} |" in text


def test_a_restorers_card_gives_its_psnrs_and_its_cost() -> None:
    card = steadylens.card("l11-gtsrb")
    text = card.markdown()
    for row in card.info.figures:
        if isinstance(row, Restoring):
            assert f" {row.restored_db:.2f}" in text
    assert "million multiply-adds" in text


def test_no_figure_of_a_single_net_is_marked_as_the_best() -> None:
    assert all("**" not in steadylens.card(name).markdown() for name in PRETRAINED)


def test_a_card_tells_how_the_net_was_trained() -> None:
    text = section(card_with(stored_as="float16"), "Training")
    assert text.strip().splitlines() == [
        "- parameters: 4,739",
        "- recipe: fast",
        "- seed: 3",
        "- commit: 0123abc",
        "- versions: python 3.11, torch 2.14",
        "- last stage: 9,600 images in 1 min 05 s",
        "- stored as: float16",
    ]


def test_a_card_cites_the_benchmark_and_names_its_terms_if_it_is_the_data() -> None:
    text = section(card_with(), "Data")
    assert "Trained on `gtsrb:somewhere`." in text
    assert "Stallkamp" in text
    assert "ask to be cited" in text
    assert "Stallkamp" not in card_with(data="signs").markdown()


def test_a_card_says_no_more_than_is_known() -> None:
    card = card_of(loaded(GaussianSmoothing(), {}))
    info = card.info
    assert (info.seed, info.samples, info.seconds, info.data, info.figures, card.classes) == (
        None, None, None, "", (), ()
    )  # fmt: skip
    text = card.markdown()
    assert section(card, "Training").strip() == "- parameters: 0"
    assert "The training data are not known." in text
    assert "trained with" not in text
    assert "## Figures" not in text
    assert "None" not in text.replace("[None]", "")
    assert "model-index" not in readme_of(card)


def test_a_card_begins_with_what_the_net_does_and_lists_its_limits() -> None:
    card = card_with()
    assert card.task == RESTORING
    assert f"# net\n\n{card.purpose}\n" in card.markdown()
    assert section(card, "Limits").strip() == "\n".join(f"- {limit}" for limit in card.limits)


def test_the_code_resizes_images_for_a_classifier_that_reads_one_size_only() -> None:
    fused = FusedClassifier(GaussianSmoothing(), PREPARED)
    for module, size in ((PREPARED, 8), (fused, 8), (SignNet(), 48)):
        assert card_with(module=module).size == size
        assert f'("sign.png", size={size})' in card_with(module=module).markdown()
    assert card_with().size is None
    assert '("sign.png"))' in card_with().markdown()


@pytest.mark.parametrize("data", ["", "folder:photos", "signs", "gtsrb:DIR"])
def test_only_a_net_that_learned_on_signs_is_said_to_know_them(data: str) -> None:
    card = card_with(data=data)
    header: Any = ModelCard(readme_of(card)).data
    learned = data in ("signs", "gtsrb:DIR")
    assert ("traffic-signs" in header.tags, '"sign.png"' in card.markdown()) == (learned, learned)


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_packaged_net_defends_against_no_adversary_and_knows_the_images_of_its_name_only(
    name: str,
) -> None:
    limits = section(steadylens.card(name), "Limits")
    assert "no defence against attacks" in limits
    learned = (
        "It was trained on German traffic signs, cut out and resized to 48x48 pixels."
        if name.endswith("-gtsrb")
        else "It was trained on photographs."
    )
    assert learned in limits
    assert ("No safety function should rely on it alone" in limits) == (name in {"sign-gtsrb", "fused-gtsrb"})


def test_the_example_of_a_file_loads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steadylens.save_model(tmp_path / "mine.safetensors", DongNet(), about={})
    write_image(tmp_path / "photo.jpg", torch.rand(3, 20, 30))
    markdown = steadylens.card(tmp_path / "mine.safetensors").markdown()
    example = markdown.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - the code of the card
    assert names["restored"].shape == (1, 3, 20, 30)
    assert 'load("l3-gtsrb")' in steadylens.card("l3-gtsrb").markdown()


def test_the_example_fits_photographs_as_the_classifier_reads_them() -> None:
    fit = Fit(keeps_shape=True, side=10)
    named = PreparedClassifier(nn.Flatten(), Preprocessing(size=8, fit=fit))
    call = 'read_image("sign.png", size=8, fit=steadylens.Fit.parse("crop:10"))'
    assert call in card_with(module=FusedClassifier(nn.Identity(), named)).markdown()
    assert card_with(module=SignNet(), fit="crop:52").fit == Fit(keeps_shape=True, side=52)
    assert "fit=" not in card_with(module=SignNet()).markdown()


@pytest.mark.parametrize(
    ("stage", "data", "lead"),
    [
        ("fusing mine", "", "Nothing was trained for this pair."),
        (
            "fusing mine",
            "folder:photos",
            "The restorer was tuned on `folder:photos` for its",
        ),
        ("fine-tuning mine", "folder:photos", "The classifier was fine-tuned on `folder:photos`. Its"),
    ],
)
def test_a_card_tells_what_each_part_began_as(stage: str, data: str, lead: str) -> None:
    origins = {
        "restorer": {"name": "l3-gtsrb", "data": "gtsrb:DIR", "licence": "MIT"},
        "classifier": {"name": "timm:resnet18"},
    }
    card = card_with(
        module=FusedClassifier(nn.Identity(), SignNet()), stage=stage, data=data, origins=origins
    )
    text = section(card, "Data")
    assert text.strip().startswith(lead)
    assert "Its restorer began as l3-gtsrb, trained on `gtsrb:DIR`, under the MIT licence." in text
    assert "Its classifier began as timm:resnet18, with unknown training data." in text
    assert "German Traffic Sign Recognition Benchmark" in text, "the terms of what a part was trained on"


def test_a_tuned_restorer_tells_what_it_began_as_and_nothing_of_a_classifier() -> None:
    origins = {"restorer": {"name": "l3-gtsrb", "data": "gtsrb:DIR", "licence": "MIT"}}
    card = card_with(stage="label-free tuning mine", data="folder:photos", origins=origins)
    text = section(card, "Data")
    assert text.strip().startswith("It was tuned on `folder:photos` for a classifier, without labels.")
    assert "It began as l3-gtsrb, trained on `gtsrb:DIR`, under the MIT licence." in text
    assert card.shows_signs


def test_a_restorer_of_any_size_fits_nothing() -> None:
    assert "fit=" not in card_with(fit="crop:73:bicubic").markdown()


def test_a_card_is_short_enough_to_look_at() -> None:
    assert len(repr(steadylens.card("l11-gtsrb"))) < 5000


def test_a_licence_that_is_not_stated_is_not_made_up() -> None:
    for module in (PREPARED, FusedClassifier(GaussianSmoothing(), PREPARED), RestorationNet(depth=3)):
        card = card_with(module=module)
        assert card.info.licence == ""
        assert "Licence of the weights: not stated." in section(card, "Method and licence")
        data: Any = ModelCard(readme_of(card)).data
        assert data.license is None


def test_the_licence_is_what_the_data_about_a_net_state() -> None:
    card = card_with(licence="Apache-2.0")
    assert "Licence of the weights: under the Apache-2.0 licence." in section(card, "Method and licence")
    data: Any = ModelCard(readme_of(card)).data
    assert data.license == "apache-2.0"


def test_the_classes_are_those_of_the_classifier_if_the_data_about_it_name_none() -> None:
    named = PreparedClassifier(nn.Flatten(), Preprocessing(size=8), class_names=("yes", "no"))
    bare = nn.Flatten()
    bare.config = SimpleNamespace(id2label={0: "cat", 1: "dog"})  # type: ignore[assignment]
    for module, names in ((named, ("yes", "no")), (bare, ("cat", "dog"))):
        assert card_of(loaded(FusedClassifier(nn.Identity(), module), {})).classes == names
        assert card_with(module=FusedClassifier(nn.Identity(), module)).classes == ("a", "b")
    assert card_of(loaded(RestorationNet(depth=3), {})).classes == ()


def test_a_classifier_that_saw_clean_images_alone_says_so() -> None:
    assert "not trained for noise" in section(steadylens.card("sign-gtsrb"), "Limits")
    assert "not trained for noise" not in section(steadylens.card("fused-gtsrb"), "Limits")


@pytest.mark.parametrize(
    "changes",
    [
        {"figures": [{"kind": "Accuracy"}]},
        {"figures": [{"kind": "Opinion"}]},
        {"figures": [3]},
        {"figures": 3},
        {"versions": 3},
        {"versions": ["abc"]},
        {"classes": 3},
        {"samples": "x"},
        {"seconds": float("inf")},
        {"curve": [[float("inf"), 1.0, 0.1]]},
        {"origins": 3},
        {"origins": {"restorer": "l3-gtsrb"}},
    ],
    ids=repr,
)
def test_data_of_another_form_are_refused_in_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^the data about net are not those of this version: .*$"):
        card_with(**changes)


def test_a_net_of_ones_own_has_a_card_too() -> None:
    found = steadylens.card(DongNet())
    assert (found.name, found.purpose, found.info.data) == ("DongNet", DongNet.purpose, "")
    loaded = steadylens.load_net("l3-gtsrb")
    assert steadylens.card(loaded) == steadylens.card("l3-gtsrb")


def test_those_whose_photographs_a_net_learned_from_are_named_by_all_that_is_made_from_it() -> None:
    credit = "Photographs by A, under the B licence."
    about = {"data": "photographs:DIR", "attribution": credit}
    restorer = loaded(RestorationNet(depth=3), about)
    assert credit in card_of(restorer).markdown()
    assert any(limit.startswith("It was trained on photographs.") for limit in limitations(restorer))
    tuned = loaded(PAIR, {"data": "folder:DIR", "origins": {"restorer": dict(restorer.origin)}})
    assert card_of(tuned).markdown().count(credit) == 1
    again = loaded(PAIR, {"data": "folder:DIR", "origins": {"restorer": dict(tuned.origin)}})
    assert card_of(again).markdown().count(credit) == 1
