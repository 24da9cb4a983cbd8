"""Splits keep tracks whole, have every class in each part, and no image twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steadylens.data.splitting import ImageIndex, Part, hold_out, split, split_unlabelled
from steadylens.errors import DatasetError, SettingError

classes_of_tracks = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=12), min_size=1, max_size=5)
"""For each class, the number of images of each track."""

shares = st.floats(0.01, 0.99)


def images_of(classes: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Returns labels and tracks."""
    rows = [(label, size) for label, sizes in enumerate(classes) for size in sizes]
    sizes = torch.tensor([size for _, size in rows])
    labels = torch.tensor([label for label, _ in rows])
    return labels.repeat_interleave(sizes), torch.arange(len(rows)).repeat_interleave(sizes)


def index_of(
    parts: list[Part], labels: list[int], *, tracks: list[int] | None = None, digests: list[int] | None = None
) -> ImageIndex:
    """Returns an index whose images differ and are tracks of their own, unless given otherwise."""
    own = list(range(len(labels)))
    return ImageIndex(
        parts=torch.tensor(parts, dtype=torch.int64),
        labels=torch.tensor(labels),
        tracks=torch.tensor(own if tracks is None else tracks),
        digests=torch.tensor(own if digests is None else digests),
        class_names=tuple("abcdefgh"[: max(labels) + 1]),
        track_names=tuple(f"track {number}" for number in own),
    )


def count(parts: Tensor, part: Part) -> int:
    return int((parts == part).sum())


# Holding out.


@given(classes=classes_of_tracks, share=shares, seed=st.integers(0, 2**40))
def test_whole_tracks_are_held_out_of_every_class(classes: list[list[int]], share: float, seed: int) -> None:
    labels, tracks = images_of(classes)
    held = hold_out(labels, tracks, share=share, seed=seed, purpose="validation")
    assert not set(tracks[held].tolist()) & set(tracks[~held].tolist())
    for label, sizes in enumerate(classes):
        chosen = len(set(tracks[held & (labels == label)].tolist()))
        if len(sizes) == 1:
            assert chosen == 0
        else:
            assert 1 <= chosen <= len(sizes) - 1
            assert abs(chosen - share * len(sizes)) <= 1


@given(classes=classes_of_tracks, seed=st.integers(0, 2**40), data=st.data())
def test_the_choice_does_not_depend_on_the_order(
    classes: list[list[int]], seed: int, data: st.DataObject
) -> None:
    labels, tracks = images_of(classes)
    order = torch.tensor(data.draw(st.permutations(range(len(labels)))))
    held = hold_out(labels, tracks, share=0.3, seed=seed, purpose="test")
    shuffled = hold_out(labels[order], tracks[order], share=0.3, seed=seed, purpose="test")
    assert torch.equal(shuffled, held[order])


def test_seed_and_purpose_choose_independently() -> None:
    labels, tracks = images_of([[1] * 40, [1] * 40])
    choices = [
        tuple(hold_out(labels, tracks, share=0.5, seed=seed, purpose=purpose).tolist())
        for seed in (0, 1)
        for purpose in ("test", "validation")
    ]
    assert len(set(choices)) == 4


def test_another_class_does_not_change_the_choice_in_the_others() -> None:
    labels, tracks = images_of([[2] * 9, [1] * 20, [3] * 5])
    known = labels < 2
    few = hold_out(labels[known], tracks[known], share=0.2, seed=3, purpose="validation")
    assert torch.equal(few, hold_out(labels, tracks, share=0.2, seed=3, purpose="validation")[known])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_must_lie_between_0_and_1(share: float) -> None:
    labels, tracks = images_of([[1, 1]])
    with pytest.raises(SettingError, match="must be above 0 and below 1"):
        hold_out(labels, tracks, share=share, seed=0, purpose="validation")


# The whole split.


@given(counts=st.lists(st.integers(2, 20), min_size=2, max_size=4), seed=st.integers(0, 2**40))
def test_three_parts_are_made_of_one(counts: list[int], seed: int) -> None:
    labels = [label for label, number in enumerate(counts) for _ in range(number)]
    parts, notes = split(index_of([Part.TRAIN] * len(labels), labels), validation_share=0.25, seed=seed)
    chosen = sum(max(round(0.2 * number), 1) for number in counts)
    (note,) = notes
    assert note.startswith(
        f"{chosen} of {len(labels)} images are for testing, chosen at random; a classifier"
    )
    for label, number in enumerate(counts):
        own = parts[torch.tensor(labels) == label]
        test = max(round(0.2 * number), 1)
        validation = max(round(0.25 * (number - test)), 1) if number - test > 1 else 0
        assert [count(own, part) for part in Part] == [number - test - validation, validation, test, 0]


def test_parts_that_the_source_assigns_stay() -> None:
    marks = [Part.TRAIN, Part.TRAIN, Part.VALIDATION, Part.TEST, Part.TEST]
    parts, notes = split(index_of(marks, [0, 1, 1, 0, 1]), validation_share=0.5, seed=0)
    assert parts.tolist() == marks
    assert notes == ()


def test_the_index_is_not_changed() -> None:
    index = index_of([Part.TRAIN] * 6, [0, 0, 0, 1, 1, 1])
    split(index, validation_share=0.5, seed=0)
    assert index.parts.tolist() == [Part.TRAIN] * 6


def test_a_track_that_contains_a_test_image_is_left_out_whole() -> None:
    index = index_of(
        [Part.TRAIN] * 6 + [Part.TEST] * 2,
        [0, 0, 0, 0, 1, 1, 0, 1],
        tracks=[0, 0, 1, 2, 3, 4, 5, 6],
        digests=[10, 11, 12, 13, 14, 15, 11, 16],
    )
    parts, notes = split(index, validation_share=0.5, seed=0)
    assert parts[:2].tolist() == [Part.LEFT_OUT] * 2
    assert count(parts, Part.LEFT_OUT) == 2
    assert notes == ("images left out by whole tracks: 2, because test images equal 1 of them: track 0",)


def test_equal_images_within_training_stay() -> None:
    index = index_of([Part.TRAIN] * 4 + [Part.TEST] * 2, [0, 0, 1, 1, 0, 1], digests=[7, 7, 8, 8, 1, 2])
    parts, _ = split(index, validation_share=0.5, seed=0)
    assert count(parts, Part.LEFT_OUT) == 0


@pytest.mark.parametrize(
    ("marks", "labels", "digests", "message"),
    [
        ([Part.TRAIN] * 3, [0, 0, 1], [0, 1, 2], "class 'b' has a single image, which cannot be split"),
        ([Part.TRAIN] * 3, [0, 0, 0], [0, 1, 2], "classes with training images is 1, it must be at least 2"),
        (
            [Part.TRAIN] * 4 + [Part.TEST] * 2,
            [0, 0, 1, 1, 0, 1],
            [0, 1, 2, 2, 4, 2],
            "no training images that differ from test images are left of 'b'",
        ),
        (
            [Part.TRAIN] * 4 + [Part.TEST],
            [0, 0, 1, 1, 2],
            [0, 1, 2, 3, 4],
            "no training images that differ from test images are left of 'c'",
        ),
    ],
    ids=["single image", "single class", "all duplicates", "class in test alone"],
)
def test_what_cannot_be_split_is_refused(
    marks: list[Part], labels: list[int], digests: list[int], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        split(index_of(marks, labels, digests=digests), validation_share=0.5, seed=0)


def test_unlabelled_images_are_for_training_and_validation_by_whole_tracks() -> None:
    tracks = [0, 0, 0, 1, 2, 2, 3, 4]
    index = index_of([Part.TRAIN] * 8, [0] * 8, tracks=tracks)
    parts = split_unlabelled(index, share=0.4, seed=3)
    assert set(parts.tolist()) == {Part.TRAIN, Part.VALIDATION}
    held = {track for track, part in zip(tracks, parts.tolist(), strict=True) if part == Part.VALIDATION}
    assert len(held) == 2
    assert all(
        (track in held) == (part == Part.VALIDATION)
        for track, part in zip(tracks, parts.tolist(), strict=True)
    )
