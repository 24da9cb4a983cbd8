"""Tables of accuracy on images with the damage of the real world, and under attack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from steadylens.intervals import mean_difference, shares_difference, wilson_interval
from steadylens.records import Attacked, Corrupted, CorruptedComparison, Measurement, Norm
from steadylens.report.paper import ALONE, ORIGINAL
from steadylens.report.stress.questions import CONFIDENCE, joint_confidence
from steadylens.report.tables import (
    DASH,
    EPSILON,
    INFINITY,
    Cell,
    Table,
    TableRow,
    grouped,
    percent,
    select,
    source,
    unique,
)

UNDAMAGED = "none"
"""What `Corrupted` calls the images without damage."""

VALIDATION_KINDS = frozenset({"speckle_noise", "gaussian_blur", "spatter", "saturate"})
"""The kinds of damage that the authors of ImageNet-C set aside; their mean is over the other 15."""

BOUNDED: dict[Norm, str] = {"l2": "Euclidean norm of the change", "linf": "largest change of a value"}
"""What each norm bounds, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The accuracy of one network less that of another, as shares, with the ends of its interval."""

    value: float
    lower: float
    upper: float

    @property
    def is_loss(self) -> bool:
        """Whether the interval lies below 0."""
        return self.upper < 0

    @property
    def is_gain(self) -> bool:
        """Whether the interval lies above 0."""
        return self.lower > 0

    def cell(self) -> Cell:
        """Returns it in percentage points."""
        return Cell(text=points(self.value), note=f"{points(self.lower)} to {points(self.upper)}")


def points(share: float) -> str:
    """Returns a difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def difference_over_images(per_image: Sequence[float], *, confidence: float = CONFIDENCE) -> Difference:
    """Returns the mean of the differences of two networks on the same images, with its interval.

    Args:
        per_image: For each image, the difference of the shares of its versions that are right, in [-1, 1].
        confidence: That of the interval.
    """
    value, lower, upper = mean_difference(per_image, confidence=confidence)
    return Difference(value=value, lower=lower, upper=upper)


def damage_name(kind: str) -> str:
    """Returns a kind of damage in words."""
    return kind.replace("_", " ").replace("jpeg", "JPEG")


def paired_differences(pairs: Sequence[CorruptedComparison | None]) -> list[float] | None:
    """Returns the differences of two networks image by image, each the mean over kinds of damage.

    Args:
        pairs: The record of each kind, None where there is none.

    Returns:
        For each image, the mean difference of the shares of its versions that are right; None if a kind has
        no record, or other images.
    """
    known = [pair for pair in pairs if pair is not None]
    if len(known) < len(pairs) or len({len(pair.differences) for pair in known}) != 1:
        return None
    by_kind = [[count / pair.severities for count in pair.differences] for pair in known]
    return [fmean(kinds) for kinds in zip(*by_kind, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """What was measured of one kind of damage: the records of each network, by name, over all severities."""

    kind: str
    networks: dict[str, list[Corrupted]]
    comparisons: dict[tuple[str, str], CorruptedComparison]

    @property
    def name(self) -> str:
        """The kind, in words."""
        return damage_name(self.kind)

    def accuracy(self, network: str) -> float:
        """Returns the mean accuracy over the severities, as a share."""
        return fmean(record.correct / record.samples for record in self.networks[network])

    def flips(self, network: str) -> float:
        """Returns the mean share of answers that differ from the answer to the image without damage."""
        return fmean(1 - record.kept / record.samples for record in self.networks[network])

    def interval(self, network: str, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Returns Wilson's interval of the mean accuracy, over images."""
        return _interval(self.networks[network], confidence=confidence)

    def difference(self, network: str, base: str, *, confidence: float = CONFIDENCE) -> Difference:
        """Returns the accuracy of a network less that of the base: paired, if there are records for that."""
        if (per_image := paired_differences([self.comparisons.get((network, base))])) is not None:
            return difference_over_images(per_image, confidence=confidence)
        first, second = (
            (self.accuracy(name), *self.interval(name, confidence=confidence)) for name in (network, base)
        )
        value, lower, upper = shares_difference(first, second)
        return Difference(value=value, lower=lower, upper=upper)


def _interval(records: Sequence[Corrupted], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns Wilson's interval of the mean accuracy of several versions of the same images."""
    images = min(record.samples for record in records)
    share = fmean(record.correct / record.samples for record in records)
    return wilson_interval(images * share, images, confidence=confidence)


def damages(records: Sequence[Measurement]) -> list[Damage]:
    """Returns what was measured of each kind of damage that every network was measured on."""
    measured = [record for record in select(records, Corrupted) if record.corruption != UNDAMAGED]
    compared = select(records, CorruptedComparison)
    names = set(unique(record.network for record in measured))
    found = [
        Damage(
            kind=kind,
            networks=grouped(some, by=lambda record: record.network),
            comparisons={
                (record.first, record.second): record for record in compared if record.corruption == kind
            },
        )
        for kind, some in grouped(measured, by=lambda record: record.corruption).items()
    ]
    return [damage for damage in found if set(damage.networks) == names]


def base_of(names: Sequence[str]) -> str:
    """Returns the network that the others are compared with: the classifier alone."""
    return next((name for name in (ALONE, ORIGINAL) if name in names), names[0])


def corruption_lead(records: Sequence[Measurement]) -> str:
    """Tells what the damage of the real world does to each network: what gets worse first."""
    if not (found := damages(records)):
        return ""
    base = base_of([*found[0].networks])
    texts = [_told(name, base, found) for name in found[0].networks if name != base]
    return " ".join(texts) or "How often answers stay right when images have the damage of the real world."


def _told(name: str, base: str, found: Sequence[Damage]) -> str:
    """Tells which kinds get worse and which better, with intervals that hold for all kinds at once."""
    strict = joint_confidence(len(found))
    differences = {damage.name: damage.difference(name, base, confidence=strict) for damage in found}
    losses = {kind: each.value for kind, each in differences.items() if each.is_loss}
    gains = {kind: each.value for kind, each in differences.items() if each.is_gain}
    text = f"{name}: clearly worse than {base} under {len(losses) or 'none'} of {len(found)} kinds of damage"
    text += f" ({_listed(losses, largest=False)})" if losses else ""
    text += f"; clearly better under {len(gains) or 'none'}"
    text += f" ({_listed(gains, largest=True)})" if gains else ""
    if unclear := len(found) - len(losses) - len(gains):
        text += f"; under {unclear} the difference may be chance"
    return f"{text}."


MOST_LISTED = 4
"""How many kinds of damage a sentence names."""


def _listed(values: dict[str, float], *, largest: bool) -> str:
    order = sorted(values, key=values.__getitem__, reverse=largest)
    named = [f"{kind} {points(values[kind])} points" for kind in order[:MOST_LISTED]]
    return ", ".join([*named, "..."] if len(order) > MOST_LISTED else named)


def corruption_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the tables of damaged images: each network by kind, losses first; then all of them in short."""
    if not (found := damages(records)):
        return []
    measured = select(records, Corrupted)
    base = base_of([*found[0].networks])
    others = [name for name in found[0].networks if name != base]
    return [
        *(_by_kind(name, base, found, measured) for name in others),
        _overall(base, others, found, measured),
        _by_severity(found, measured),
    ]


def _by_kind(name: str, base: str, found: Sequence[Damage], measured: Sequence[Corrupted]) -> Table:
    rows = []
    differences = {damage.kind: damage.difference(name, base) for damage in found}
    for damage in sorted(found, key=lambda damage: differences[damage.kind].value):
        cells = [_accuracy_cell([damage], network) for network in (base, name)]
        flips = [Cell(text=percent(damage.flips(network), digits=1)) for network in (base, name)]
        title = Cell(text=damage.name)
        rows.append(TableRow(cells=(title, *cells, differences[damage.kind].cell(), *flips)))
    return Table(
        title=f"Damage by kind: {name}",
        caption="Accuracy on images with each kind of damage in per cent, the mean over severities "
        f"{_severities(measured)}, and the difference in percentage points: losses first. Flips are answers "
        "that differ from the answer to the image without damage, in per cent.",
        notes_caption="Small numbers are 95 % intervals over images, each for itself; that of the difference "
        "is paired where the records tell image by image. The text calls a kind clearly better or worse "
        f"where an interval that holds for all {len(found)} kinds at once (Bonferroni) excludes 0.",
        source=source(_of(found), count="images at each severity"),
        header=("damage", base, name, "difference", f"flips, {base}", f"flips, {name}"),
        rows=tuple(rows),
    )


def _accuracy_cell(found: Sequence[Damage], network: str) -> Cell:
    records = [record for damage in found for record in damage.networks[network]]
    return _with_interval(fmean(damage.accuracy(network) for damage in found), _interval(records))


def _with_interval(share: float, interval: tuple[float, float]) -> Cell:
    lower, upper = (percent(end, digits=1) for end in interval)
    return Cell(text=percent(share, digits=1), note=f"{lower} to {upper}")


def _of(found: Sequence[Damage]) -> list[Corrupted]:
    return [record for damage in found for some in damage.networks.values() for record in some]


def _severities(records: Sequence[Corrupted]) -> str:
    return ", ".join(map(str, sorted({record.severity for record in records if record.severity})))


def _overall(
    base: str, others: Sequence[str], found: Sequence[Damage], measured: Sequence[Corrupted]
) -> Table:
    clean = {record.network: record for record in measured if record.corruption == UNDAMAGED}
    common = [damage for damage in found if damage.kind not in VALIDATION_KINDS]
    rows = []
    for name in (base, *others):
        undamaged = Cell(text=DASH)
        if (record := clean.get(name)) is not None:
            undamaged = _with_interval(record.correct / record.samples, (record.lower, record.upper))
        difference = Cell(text=DASH) if name == base else _overall_difference(name, base, found)
        errors, flips = (_relative(name, base, common, flips=flips) for flips in (False, True))
        cells = (Cell(text=name), undamaged, _accuracy_cell(found, name), difference, errors, flips)
        rows.append(TableRow(cells=cells))
    left_out = f", without {', '.join(damage.name for damage in found if damage not in common)}"
    return Table(
        title="Damage of all kinds",
        caption="Accuracy in per cent without damage and as the mean over all kinds and severities, with the "
        "difference to the classifier alone in percentage points. mCE, the mean corruption error of "
        "Hendrycks and Dietterich (2019), is the mean over kinds c of 100 \N{MULTIPLICATION SIGN} (errors "
        f"summed over severities) / (those of {base}); they divide by AlexNet's. mFR is the same of flips, "
        "answers that differ from the answer to the image without damage. It is formed like their mean flip "
        "rate, but from these images; the sequences of ImageNet-P are not used. Below 100 is better than "
        f"{base}. Both are over {len(common)} kinds{left_out if len(common) < len(found) else ''}.",
        notes_caption="Small numbers are 95 % intervals over images, or how many kinds had to be left out as "
        f"{base} makes no errors there.",
        source=source(_of(found), count="images of each kind and severity"),
        header=("network", "without damage", "damaged", "difference", "mCE", "mFR"),
        rows=tuple(rows),
    )


def _overall_difference(name: str, base: str, found: Sequence[Damage]) -> Cell:
    per_image = paired_differences([damage.comparisons.get((name, base)) for damage in found])
    if per_image is None:
        return Cell(text=points(fmean(damage.accuracy(name) - damage.accuracy(base) for damage in found)))
    return difference_over_images(per_image).cell()


def _relative(name: str, base: str, found: Sequence[Damage], *, flips: bool) -> Cell:
    """Returns the mean over kinds of a network's errors, or flips, in per cent of those of the base."""
    ratios = []
    for damage in found:
        own, usual = (
            damage.flips(network) if flips else 1 - damage.accuracy(network) for network in (name, base)
        )
        if usual > 0:
            ratios.append(own / usual)
    if not ratios:
        return Cell(text=DASH)
    left_out = len(found) - len(ratios)
    note = f"without {left_out} kind{'s' if left_out > 1 else ''}" if left_out else ""
    return Cell(text=percent(fmean(ratios), digits=1), note=note)


def _by_severity(found: Sequence[Damage], measured: Sequence[Corrupted]) -> Table:
    severities = sorted({record.severity for record in measured if record.severity})
    rows = []
    for name in found[0].networks:
        cells = [Cell(text=name)]
        for severity in severities:
            some = [
                record for damage in found for record in damage.networks[name] if record.severity == severity
            ]
            share = fmean(record.correct / record.samples for record in some)
            cells.append(_with_interval(share, _interval(some)))
        rows.append(TableRow(cells=tuple(cells)))
    return Table(
        title="Damage by severity",
        caption="Accuracy in per cent at each severity, the mean over all kinds of damage.",
        notes_caption="Small numbers are 95 % intervals over images.",
        source=source(_of(found), count="images of each kind and severity"),
        header=("network", *(f"severity {severity}" for severity in severities)),
        rows=tuple(rows),
    )


def attack_lead(records: Sequence[Measurement]) -> str:
    """Tells how far a restorer is from being a defence."""
    text = "A restorer is no defence against someone who knows it; here is by how much it is not."
    if not (found := attacked_records(records)):
        return text
    base = base_of(unique(record.network for record in found))
    for norm, some in grouped(found, by=lambda record: record.norm).items():
        epsilons = sorted({record.epsilon for record in some if record.epsilon > 0})
        if not epsilons:
            continue
        epsilon = epsilons[len(epsilons) // 2]
        here = [record for record in some if record.epsilon == epsilon]
        direct = _worst([record for record in here if record.knows_restorer])
        shown = _worst([record for record in here if not record.knows_restorer])
        if base not in direct:
            continue
        told = [
            f"{name} {percent(share, digits=0)} %"
            + (
                f" ({percent(shown[name], digits=0)} % on images made against the classifier alone)"
                if name in shown
                else ""
            )
            for name, share in direct.items()
        ]
        text += (
            f" Where the {BOUNDED[norm]} is at most {bound_text(norm, epsilon)}, right answers remain for "
            f"{', '.join(told)}."
        )
        text += "".join(_hidden_gradient(record, shown) for record in here)
    return text


def _hidden_gradient(record: Attacked, shown: Mapping[str, float]) -> str:
    """Says so if images made against the classifier alone beat the attack through the restorer."""
    if record.only_transferred is None or record.network not in shown:
        return ""
    share = (record.correct + record.only_transferred) / record.samples
    if share <= shown[record.network]:
        return ""
    return (
        f" The attack through the restorer alone would have left {percent(share, digits=0)} % for "
        f"{record.network}, more than those images do: the restorer hides its gradient, and better attacks "
        "may find more."
    )


def _worst(records: Sequence[Attacked]) -> dict[str, float]:
    """Returns the lowest accuracy of each network, as a share."""
    groups = grouped(records, by=lambda record: record.network)
    return {name: min(record.correct / record.samples for record in some) for name, some in groups.items()}


def attacked_records(records: Sequence[Measurement]) -> list[Attacked]:
    """Returns the records of attacks, but for images made against the classifier alone shown to itself."""
    found = select(records, Attacked)
    if not found:
        return []
    base = base_of(unique(record.network for record in found))
    return [record for record in found if record.knows_restorer or record.network != base]


def bound_text(norm: Norm, epsilon: float) -> str:
    """Returns a bound as text: as grey levels of 255 if it is a whole number of them."""
    levels = 255 * epsilon
    is_whole = norm == "linf" and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if is_whole else f"{epsilon:.4g}"


def way_text(record: Attacked) -> str:
    """Returns in words how a network was attacked."""
    if not record.knows_restorer:
        return "images made against the classifier alone"
    if record.attack != "PGD":
        return record.attack
    restarts = f"{record.restarts} random restart{'s' if record.restarts > 1 else ''}"
    return f"{record.attack}, {restarts}" if record.restarts else record.attack


def attack_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes a table of accuracy under attack for each norm that bounds the change."""
    groups = grouped(attacked_records(records), by=lambda record: record.norm)
    return [_attack_table(norm, some) for norm, some in groups.items()]


def _attack_table(norm: Norm, records: Sequence[Attacked]) -> Table:
    epsilons = sorted({record.epsilon for record in records})
    rows = []
    for (network, way), some in grouped(
        records, by=lambda record: (record.network, way_text(record))
    ).items():
        by_bound = {record.epsilon: record for record in some}
        cells = [
            _with_interval(found.correct / found.samples, (found.lower, found.upper))
            if (found := by_bound.get(epsilon)) is not None
            else Cell(text=DASH)
            for epsilon in epsilons
        ]
        rows.append(TableRow(cells=(Cell(text=network), Cell(text=way), *cells)))
    steps = ", ".join(
        f"{some[0].attack} with {some[0].steps} steps"
        for some in grouped(records, by=lambda record: record.attack).values()
    )
    subscript = "2" if norm == "l2" else INFINITY
    return Table(
        title=f"Accuracy under attack, change bounded in L{subscript}",
        caption="Share of the images, in per cent, on which no attack found a change within the bound "
        f"{EPSILON} ({BOUNDED[norm]}, for images in [0, 1]) that makes the answer wrong. "
        f"Attacks go end to end through the restorer, but for images made against the classifier alone: "
        f"{steps}. Images that are wrong without a change count as wrong, and a change found within a "
        "smaller bound counts within each larger one. In attacks through the restorer, images made against "
        "the classifier alone count, too. A better attack may find more, so true accuracy is not higher.",
        notes_caption="Small numbers are 95 % Wilson intervals.",
        source=source(records, count="images in each cell"),
        header=(
            "network",
            "attack",
            *(f"{EPSILON} = {bound_text(norm, epsilon)}" if epsilon else "no change" for epsilon in epsilons),
        ),
        rows=tuple(rows),
    )
