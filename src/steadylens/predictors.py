"""What a service answers with: the classes of an image, or the restored image."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from steadylens.fitting import Fit
from steadylens.images import SQUASHED, to_float
from steadylens.uploads import Refusal, encode_png

Reply = tuple[bytes, str]
"""The content of an answer and its content type."""


class Predictor(Protocol):
    """A net with the two ends that a service needs."""

    @property
    def size(self) -> int | None:
        """Height and width that images are resized to, or None if they keep their size."""

    @property
    def fit(self) -> Fit:
        """How they become squares of that size."""

    @property
    def output(self) -> str:
        """What the answers are, for people."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns one result for each image, on the CPU, for stored images, uint8 (N, 3, H, W)."""

    def encoder(self, query: Mapping[str, str]) -> Callable[[Tensor], Reply]:
        """Returns what makes a result the answer that a query asks for.

        Raises:
            Refusal: 422 if the query cannot be understood; it closes, for the body is not read yet.
        """


class Classifying:
    """Answers with the most probable classes, as JSON.

    Args:
        net: Images (N, 3, H, W) in [0, 1] -> logits (N, classes).
        device: Where the net is.
        size: Height and width of the images that it reads.
        classes: The classes' names, by number; the number stands for a name that is missing.
        fit: How photographs become squares before it reads them.
    """

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        size: int,
        classes: Sequence[str],
        fit: Fit = SQUASHED,
    ) -> None:
        self._net, self._device, self._classes = net, device, tuple(classes)
        self.size, self.fit = size, fit

    @property
    def output(self) -> str:
        """What the answers are, for people."""
        return "application/json: the most probable classes, by default 5; ?top=N asks for N"

    def __call__(self, images: Tensor) -> Tensor:
        """Returns probabilities (N, classes)."""
        with torch.inference_mode():
            return self._net(to_float(images.to(self._device))).softmax(dim=1).cpu()

    def encoder(self, query: Mapping[str, str]) -> Callable[[Tensor], Reply]:
        """Returns what lists the `top` most probable classes, 5 if the query does not say."""
        _check_names(query, {"top"})
        asked = query.get("top", "5")
        if not (asked.isascii() and asked.isdecimal() and 1 <= len(asked) <= 6 and int(asked) >= 1):
            reason = f"top is {asked[:20]!r}, it must be a number of classes, at least 1"
            raise Refusal(422, reason, closing=True)
        return lambda probabilities: self._listed(probabilities, int(asked))

    def _listed(self, probabilities: Tensor, top: int) -> Reply:
        values, classes = probabilities.topk(min(top, len(probabilities)))
        predictions = [
            {"class": number, "label": self._name(number), "probability": probability}
            for number, probability in zip(classes.tolist(), values.tolist(), strict=True)
        ]
        return json.dumps({"predictions": predictions}).encode(), "application/json"

    def _name(self, number: int) -> str:
        return self._classes[number] if number < len(self._classes) else str(number)


class Restoring:
    """Answers with the restored image, as PNG.

    Args:
        restore: Stored images, uint8 (N, 3, H, W) -> such images, both on the CPU.
    """

    size, fit = None, SQUASHED

    def __init__(self, restore: Callable[[Tensor], Tensor]) -> None:
        self._restore = restore

    @property
    def output(self) -> str:
        """What the answers are, for people."""
        return "image/png: the restored image, 8-bit RGB, of the size that it came in"

    def __call__(self, images: Tensor) -> Tensor:
        """Returns restored images, uint8 (N, 3, H, W)."""
        with torch.inference_mode():
            return self._restore(images)

    def encoder(self, query: Mapping[str, str]) -> Callable[[Tensor], Reply]:
        """Returns what writes PNG; there is nothing to ask for."""
        _check_names(query, set())
        return lambda image: (encode_png(image), "image/png")


def _check_names(query: Mapping[str, str], known: set[str]) -> None:
    if unknown := sorted(query.keys() - known):
        there_is = f"there is {', '.join(sorted(known))}" if known else "there is none"
        reason = f"the query parameter {unknown[0][:40]!r} is unknown; {there_is}"
        raise Refusal(422, reason, closing=True)
