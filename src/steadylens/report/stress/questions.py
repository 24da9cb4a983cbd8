"""Questions about networks with and without a restorer, each a row of numbers and a sentence about them.

A sentence says no more than the intervals show.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, TypeVar

from steadylens.intervals import shares_difference, wilson_interval
from steadylens.records import Accuracy, Attacked, Corrupted, Measurement, Stability
from steadylens.report.paper import AUGMENTED, FINE_TUNED, RESTORED, TOGETHER
from steadylens.report.tables import DASH, Cell, TableRow, grouped, percent

CONFIDENCE = 0.95


def joint_confidence(count: int) -> float:
    """Returns the confidence of each of several intervals that hold together with 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / count


Condition = TypeVar("Condition", bound=Hashable)


class Estimate(NamedTuple):
    """A share, a difference of shares or a radius, with the ends of its interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """The networks of the table.

    Attributes:
        reference: The classifier alone.
        others: What it is compared with, the most important first.
        restored: Those of them that have a restorer.
    """

    reference: str
    others: tuple[str, ...]
    restored: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All networks, in the order of the columns."""
        return self.reference, *self.others


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A row about shares of images.

    Attributes:
        note: What is counted, in a few words.
        images: How many images each number rests on.
        changes: The difference of each other network from the classifier alone.
        phrase: What holds for the images of the share, as in "94 of 100 images are right".
        remark: A sentence to add.
    """

    title: str
    note: str
    images: int
    shares: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]
    phrase: str
    remark: str = ""


def common_conditions(known: Mapping[tuple[str, Condition], Measurement]) -> set[Condition]:
    """Returns the conditions under which every network was measured that was measured at all."""
    by_network = grouped(known, by=lambda key: key[0]).values()
    sets = [{condition for _, condition in some} for some in by_network]
    return set.intersection(*sets) if sets else set()


def shares_right(
    known: Mapping[tuple[str, Condition], Accuracy | Stability | Corrupted | Attacked],
    networks: Compared,
    conditions: Sequence[Condition],
    *,
    confidence: float = CONFIDENCE,
) -> dict[str, Estimate]:
    """Returns the mean share of right answers over some conditions, of each network that has them all.

    The interval is over images. It is empty if the classifier alone or all others lack a record.
    """
    shares = {}
    for name in networks.names:
        if conditions and all((name, condition) in known for condition in conditions):
            rows = [known[name, condition] for condition in conditions]
            images = images_of(rows)
            share = fmean(row.correct / row.samples for row in rows)
            ends = wilson_interval(share * images, images, confidence=confidence)
            shares[name] = Estimate(share, *ends)
    return shares if networks.reference in shares and len(shares) > 1 else {}


def images_of(rows: Iterable[Accuracy | Stability | Corrupted | Attacked]) -> int:
    """Returns how many images a number from some records rests on: the fewest of one record."""
    return min(row.images if isinstance(row, Stability) else row.samples for row in rows)


def differences(shares: Mapping[str, Estimate], networks: Compared) -> dict[str, Estimate]:
    """Returns the differences from the classifier alone that follow from the intervals of the shares."""
    return {
        name: Estimate(*shares_difference(shares[name], shares[networks.reference]))
        for name in networks.others
        if name in shares
    }


def question_row(question: Question, networks: Compared) -> TableRow:
    """Returns the row of a question: a number for each network, the differences, and what they mean."""
    digits = 2 if max(change.upper - change.lower for change in question.changes.values()) < 0.01 else 1
    better = {name for name, change in question.changes.items() if change.lower > 0}
    worse = {name for name, change in question.changes.items() if change.upper < 0}
    best = {networks.reference} if worse == question.changes.keys() else better
    cells = [Cell(text=question.title, note=f"{question.images:,} images; {question.note}".rstrip("; "))]
    for name in networks.names:
        share = question.shares.get(name)
        ends = [percent(end, digits=digits) for end in (share.lower, share.upper)] if share else []
        text = percent(share.value if share else None, digits=digits)
        cells.append(Cell(text=text, note=DASH.join(ends), best=name in best))
    for name in networks.others:
        change = question.changes.get(name)
        points = [f"{100 * value:+z.{digits}f}" for value in change or ()]
        cells.append(Cell(text=points[0], note=" to ".join(points[1:])) if points else Cell(text=DASH))
    told = [*_sentences(question, better, worse, networks), question.remark]
    return TableRow(cells=(*cells, Cell(text=" ".join(told).strip())))


def _sentences(question: Question, better: set[str], worse: set[str], networks: Compared) -> Iterator[str]:
    """Yields what is better and what worse, and by how much; or how much it may be, if neither is shown."""
    before = question.shares[networks.reference].value
    for verdict, names in (("Better", better), ("Worse", worse)):
        if not (named := [name for name in networks.others if name in names]):
            continue
        values = {name: _value(question, name, before) for name in named}
        parts = (
            of for of in (100, 1_000) if all(round(v * of) != round(before * of) for v in values.values())
        )
        of = next(parts, 10_000)
        first, *further = (f"{values[name] * of:,.0f}{{}} {subject_of(name)}" for name in named)
        told = ", ".join(
            [first.format(f" of {of:,} {question.phrase}"), *(text.format("") for text in further)]
        )
        yield f"{verdict}: {told}, instead of {before * of:,.0f}."
    unclear = [name for name in question.changes if name not in better | worse]
    if told := " and ".join(f"{subject_of(name)} ({_range(question.changes[name])})" for name in unclear):
        yield f"No measurable difference {told}."


def _value(question: Question, name: str, before: float) -> float:
    """Returns a share; or what follows from the difference, if that was measured on other noise."""
    value, change = question.shares[name].value, question.changes[name].value
    return value if (value - before) * change > 0 else before + change


def _range(change: Estimate) -> str:
    """Returns the ends of an interval that holds zero, in words."""
    worse, better = (
        f"{100 * end:.1f}" if end >= 0.001 or not end else f"{100 * end:.2f}"
        for end in (-change.lower, change.upper)
    )
    return f"between {worse} points worse and {better} better"


def subject_of(name: str) -> str:
    """Returns how a sentence speaks of a network."""
    known = {
        RESTORED: "behind the restorer",
        TOGETHER: "behind the restorer",
        AUGMENTED: "after training on noise",
        FINE_TUNED: "after tuning on noise",
    }
    return known.get(name, name if name.startswith("behind ") else f"with {name}")
