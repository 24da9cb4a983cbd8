"""Splits labelled images into three parts by whole tracks, so that no physical sign is in two parts."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from steadylens.errors import DatasetError, SettingError
from steadylens.randomness import derived_generator

TEST_SHARE = 0.2
"""The share of every class that becomes the test set if the source has none."""


class Part(IntEnum):
    """The part of a data set that an image belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    LEFT_OUT = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageIndex:
    """What is known of N images before they are split.

    Attributes:
        parts: The part that the source assigns each image to, values of `Part`, int64 (N,).
        labels: Classes, int64 (N,).
        tracks: Physical signs, int64 (N,), each within one class.
        digests: Digests of the images' pixels, int64 (N,).
        class_names: Names of the classes, by label.
        track_names: Names of the physical signs, by track.
    """

    parts: Tensor
    labels: Tensor
    tracks: Tensor
    digests: Tensor
    class_names: tuple[str, ...]
    track_names: tuple[str, ...]


def split(
    index: ImageIndex, *, validation_share: float, seed: int, training: bool = True
) -> tuple[Tensor, tuple[str, ...]]:
    """Assigns every image to a part.

    Images that the source assigns to test or validation stay there. Tracks outside the test set that contain
    a test image are left out.

    Args:
        index: The images.
        validation_share: The share of each class's training tracks for validation, if the source has no
            validation images.
        seed: Seed of the choice.
        training: Whether there must be training images.

    Returns:
        Values of `Part`, int64 (N,); and sentences on test images that were chosen and images left out.

    Raises:
        DatasetError: If a class has too few images to be split, or there are fewer than two classes.
        SettingError: If the share is not between 0 and 1.
    """
    parts, labels, tracks = index.parts.clone(), index.labels, index.tracks
    own_test, own_validation = bool((parts == Part.TEST).any()), bool((parts == Part.VALIDATION).any())
    if not (own_test and own_validation):
        _refuse_single_images(labels[parts == Part.TRAIN], index.class_names)
    if not own_test:
        candidates = torch.nonzero(parts == Part.TRAIN).flatten()
        held = hold_out(labels[candidates], tracks[candidates], share=TEST_SHARE, seed=seed, purpose="test")
        parts[candidates[held]] = Part.TEST
    duplicates = torch.isin(index.digests, index.digests[parts == Part.TEST]) & (parts != Part.TEST)
    parts[torch.isin(tracks, tracks[duplicates])] = Part.LEFT_OUT
    if training or (index.parts == Part.TRAIN).any():
        _check_classes(labels, parts, index.class_names)
    if not own_validation:
        candidates = torch.nonzero(parts == Part.TRAIN).flatten()
        held = hold_out(
            labels[candidates], tracks[candidates], share=validation_share, seed=seed, purpose="validation"
        )
        parts[candidates[held]] = Part.VALIDATION
    chosen = () if own_test else _note_chosen(parts)
    return parts, (*chosen, *_note_left_out(index, parts, duplicates))


def split_unlabelled(index: ImageIndex, *, share: float, seed: int) -> Tensor:
    """Assigns images without classes to training and validation; there are no test images.

    Args:
        index: The images; all have the same label.
        share: The share of the tracks for validation.
        seed: Seed of the choice.

    Returns:
        Values of `Part`, int64 (N,).

    Raises:
        SettingError: If the share is not between 0 and 1.
    """
    held = hold_out(index.labels, index.tracks, share=share, seed=seed, purpose="validation")
    return torch.where(held, Part.VALIDATION.value, Part.TRAIN.value)


def hold_out(labels: Tensor, tracks: Tensor, *, share: float, seed: int, purpose: str) -> Tensor:
    """Chooses about a share of every class, by whole tracks.

    Of two tracks or more, at least one is held out and at least one stays; a single track always stays.
    The choice depends on the set of tracks of each class, not on the order of the images.

    Args:
        labels: Classes of the images, int64 (N,).
        tracks: Tracks of the images, int64 (N,), each within one class.
        share: The share of each class's tracks to hold out, above 0 and below 1.
        seed: Seed of the choice.
        purpose: Name of the choice; choices of different names are independent.

    Returns:
        Which images are held out, bool (N,).

    Raises:
        SettingError: If the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise SettingError(f"the share held out for {purpose} is {share}, it must be above 0 and below 1")
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in _distinct(labels):
        candidates = torch.tensor(_distinct(tracks[labels == label]))
        count = min(max(round(share * len(candidates)), 1), len(candidates) - 1)
        order = torch.randperm(len(candidates), generator=derived_generator(seed, purpose, label))
        held |= torch.isin(tracks, candidates[order[:count]])
    return held


def _distinct(values: Tensor) -> list[int]:
    return sorted(set(values.tolist()))


def _refuse_single_images(labels: Tensor, class_names: tuple[str, ...]) -> None:
    for label, count in enumerate(labels.bincount(minlength=len(class_names)).tolist()):
        if count == 1:
            raise DatasetError(
                f"class {class_names[label]!r} has a single image, which cannot be split; "
                "add another or remove the class"
            )


def _check_classes(labels: Tensor, parts: Tensor, class_names: tuple[str, ...]) -> None:
    known = _distinct(labels[parts == Part.TRAIN])
    lost = [class_names[label] for label in _distinct(labels) if label not in known]
    if lost:
        raise DatasetError(
            f"no training images that differ from test images are left of {', '.join(map(repr, lost))}; "
            "add others or remove the class"
        )
    if len(known) < 2:
        raise DatasetError(
            f"the number of classes with training images is {len(known)}, it must be at least 2; "
            "add another class"
        )


def _note_chosen(parts: Tensor) -> tuple[str, ...]:
    return (
        f"{int((parts == Part.TEST).sum()):,} of {len(parts):,} images are for testing, chosen at random; a "
        "classifier from elsewhere may have been trained on them. To compare it on all images, give a folder "
        "with the class folders in test/",
    )


def _note_left_out(index: ImageIndex, parts: Tensor, duplicates: Tensor) -> tuple[str, ...]:
    left_out = index.tracks[parts == Part.LEFT_OUT]
    if not len(left_out):
        return ()
    names = [index.track_names[track] for track in _distinct(left_out)]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return (
        f"images left out by whole tracks: {len(left_out)}, because test images equal "
        f"{int(duplicates.sum())} of them: {shown}",
    )
