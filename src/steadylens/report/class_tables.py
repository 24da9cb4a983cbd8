"""Tables of what networks answer class by class, and doubts whether their classes are those of the data."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import sqrt

from steadylens.records import Confusion, Measurement
from steadylens.report.tables import DASH, Cell, Table, TableRow, percent, select, source, text_row

MOST_CLASSES = 60
"""How many classes the table of classes has; of more, those with the lowest accuracy are shown."""

MOST_CONFUSIONS = 15
"""How many pairs of a label and a wrong answer are listed."""

ARROW = "\N{RIGHTWARDS ARROW}"


def class_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the tables of classes and of wrong answers, if there are records for them."""
    if not (latest := latest_confusions(records)):
        return []
    wrong = confusions_table(latest)
    return [class_table(latest), *([wrong] if wrong.rows else [])]


def latest_confusions(records: Sequence[Measurement]) -> list[Confusion]:
    """Returns the latest record of each network, in the order of the networks."""
    return list({record.network: record for record in select(records, Confusion)}.values())


def class_table(records: Sequence[Confusion]) -> Table:
    """Lists the accuracy of each network on the clean images of each class."""
    names = records[0].class_names
    images, right = _images(records[0]), [_right(record) for record in records]
    labels = sorted(images)
    what = "Share of the clean test images of each class, in per cent, that a network classifies correctly."
    if len(labels) > MOST_CLASSES:
        worst = sorted(labels, key=lambda label: sum(counts[label] for counts in right) / images[label])
        labels = sorted(worst[:MOST_CLASSES])
        what += f" Of {len(images):,} classes, the {MOST_CLASSES} with the lowest accuracy are shown."
    rows = []
    for label in labels:
        counts = [some[label] for some in right]
        best = max(counts) if max(counts) > min(counts) else None
        cells = [
            Cell(text=percent(count / images[label], digits=1), note=f"{count:,}", best=count == best)
            for count in counts
        ]
        rows.append(TableRow(cells=(Cell(text=names[label]), Cell(text=f"{images[label]:,}"), *cells)))
    return Table(
        title="Accuracy by class",
        caption=what,
        notes_caption="The small number is that of the images that are right.",
        source=source(records, count="test images"),
        header=("class", "images", *(record.network for record in records)),
        rows=tuple(rows),
    )


def confusions_table(records: Sequence[Confusion]) -> Table:
    """Lists the wrong answers that are given most often, by all networks together."""
    names = records[0].class_names
    counts = [{(label, answer): n for label, answer, n in record.cells} for record in records]
    total: Counter[tuple[int, int]] = Counter()
    for some in counts:
        total.update({pair: count for pair, count in some.items() if pair[0] != pair[1]})
    return Table(
        title="Most frequent wrong answers",
        caption="How often each network takes a clean test image of the first class for one of the second.",
        source=source(records, count="test images"),
        header=(f"class {ARROW} answer", *(record.network for record in records)),
        rows=tuple(
            text_row(
                f"{names[label]} {ARROW} {names[answer] if answer >= 0 else 'none'}",
                *(f"{some[label, answer]:,}" if (label, answer) in some else DASH for some in counts),
            )
            for (label, answer), _ in total.most_common(MOST_CONFUSIONS)
        ),
    )


def doubts(records: Sequence[Measurement]) -> list[str]:
    """Returns a sentence for each network whose classes seem to be others than those of the data.

    Either its answers agree with the labels once they are read in another order, or it is no better than a
    guess.
    """
    return [text for record in latest_confusions(records) if (text := _doubt(record))]


def _doubt(record: Confusion) -> str:
    right = sum(_right(record).values()) / record.samples
    images = _images(record)
    meant = dict(_meanings(record))
    agreeing = sum(count for label, answer, count in record.cells if meant.get(answer) == label)
    reordered = agreeing / record.samples
    names = record.class_names
    if record.samples >= 3 * len(images) and reordered >= max(0.7, right + 0.3):
        answer = next(answer for answer in sorted(meant) if meant[answer] != answer)
        return (
            f"{record.network} is right on {right:.1%} of the images, and on {reordered:.1%} if its classes "
            "are in another order than those of the data "
            f"(its class {answer} seems to be {names[meant[answer]]!r}, not {names[answer]!r}): "
            "give the names in its order with --class-names FILE"
        )
    guess = max(1 / len(names), max(images.values()) / record.samples)
    if right > guess + 2 * sqrt(guess * (1 - guess) / record.samples):
        return ""
    return (
        f"{record.network} is right on {right:.1%} of the images, and a guess on {guess:.1%}: usual causes "
        "are classes in another order (--class-names FILE), another mean and std than in training, "
        "and weights that are not trained"
    )


def _meanings(record: Confusion) -> Iterator[tuple[int, int]]:
    """Yields answers with the label that they seem to mean: their most frequent one, if no other has it."""
    by_answer: dict[int, Counter[int]] = {}
    for label, answer, count in record.cells:
        by_answer.setdefault(answer, Counter())[label] += count
    pairs = [(some.most_common(1)[0][0], answer) for answer, some in by_answer.items() if answer >= 0]
    uses = Counter(label for label, _ in pairs)
    yield from ((answer, label) for label, answer in pairs if uses[label] == 1)


def _images(record: Confusion) -> Counter[int]:
    """Counts the images of each label."""
    images: Counter[int] = Counter()
    for label, _, count in record.cells:
        images[label] += count
    return images


def _right(record: Confusion) -> Counter[int]:
    """Counts the images of each label that are classified correctly."""
    return Counter({label: count for label, answer, count in record.cells if label == answer})
