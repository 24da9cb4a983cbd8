"""What a service counts about itself, in the text format that Prometheus reads."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets for times."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Upper bounds of the buckets for numbers of images."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the text format."""


class Histogram:
    """Counts values in buckets.

    Args:
        bounds: Upper bounds of the buckets, inclusive, rising; one without a bound is added.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def lines(self, name: str) -> Iterator[str]:
        """Yields the samples: how many values are at most each bound, their sum and their number."""
        count = 0
        for bound, inside in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            count += inside
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f"{name}_sum {self._total}"
        yield f"{name}_count {count}"


class Monitor:
    """The figures of a service; not to be shared by threads.

    Args:
        requests: Returns how many requests are in the house.
    """

    def __init__(self, requests: Callable[[], int]) -> None:
        self._requests = requests
        self._answers: Counter[int] = Counter()
        self._seconds = Histogram(SECONDS)
        self._batches = Histogram(SIZES)

    def answered(self, status: int, seconds: float) -> None:
        """Counts an answer to a request for a prediction, and the time from its headers to its answer."""
        self._answers[status] += 1
        self._seconds.observe(seconds)

    def batched(self, images: int) -> None:
        """Counts a batch that goes to the net."""
        self._batches.observe(images)

    def text(self) -> str:
        """Returns all figures in the text format."""
        answers = [
            f'steadylens_requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self._answers.items())
        ]
        lines = (
            "# HELP steadylens_requests_total Answered requests for a prediction, by HTTP status.",
            "# TYPE steadylens_requests_total counter",
            *answers,
            "# HELP steadylens_request_seconds Time from a request's headers to its answer.",
            "# TYPE steadylens_request_seconds histogram",
            *self._seconds.lines("steadylens_request_seconds"),
            "# HELP steadylens_batch_images Images in a batch.",
            "# TYPE steadylens_batch_images histogram",
            *self._batches.lines("steadylens_batch_images"),
            "# HELP steadylens_queue_requests Requests being read, waiting or in the net.",
            "# TYPE steadylens_queue_requests gauge",
            f"steadylens_queue_requests {self._requests()}",
        )
        return "\n".join(lines) + "\n"
