"""The first table of a report: what a restorer gains and what it costs, for a person who must decide.

Each row is a question. It has the number of the classifier alone, that behind each restorer, the difference
of the two, and a sentence that says no more than the intervals show.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from steadylens.intervals import (
    mean_difference,
    paired_difference,
    shares_difference,
    wilson_interval,
)
from steadylens.records import (
    Accuracy,
    Attacked,
    Certificate,
    Comparison,
    Corrupted,
    CorruptedComparison,
    Cost,
    Measurement,
    NoisyComparison,
    Stability,
)
from steadylens.report.noise_names import noise_words
from steadylens.report.paper import ALONE, AUGMENTED, FINE_TUNED, ORIGINAL, RESTORED, TOGETHER
from steadylens.report.stress.certificates import certified_accuracy, largest_radius, proven_radii
from steadylens.report.stress.questions import (
    CONFIDENCE,
    Compared,
    Estimate,
    Question,
    common_conditions,
    differences,
    images_of,
    joint_confidence,
    question_row,
    shares_right,
    subject_of,
)
from steadylens.report.stress.stress_tables import damage_name, paired_differences
from steadylens.report.tables import (
    DASH,
    SIGMA,
    TIMES,
    Cell,
    Table,
    TableRow,
    grouped,
    select,
    source,
    unique,
)

RADIUS = 0.25
"""The Euclidean radius at which certified accuracy is shown, for images in [0, 1]."""

MOST_NAMED = 3
"""How many kinds of damage with the same difference are named; of more, the number is told."""

NORMS = {"l2": "Euclidean distance", "linf": "change of each pixel"}
"""What bounds an attack, in words."""

INTERVALS = "Ranges are 95 % intervals over images; noisy versions of one image count as one."
NOISE_DIFFERENCES = (
    " Under noise, a difference is over one noisy version of each image, the same for all networks."
)
KINDS_INTERVALS = (
    " Of the kinds of damage with the lowest and the highest difference, the interval of the difference "
    "holds for all kinds at once."
)

NO_DEFENCE = "A restorer is no defence against an attacker who knows it."
BLIND = "It tells nothing about an attacker who knows the restorer."

COUNTED = Accuracy | Stability | Corrupted | Attacked
"""Records of right answers among samples."""

COMPARISONS = Comparison | NoisyComparison | CorruptedComparison
"""Records of two networks on the same images."""

Paired = TypeVar("Paired", Comparison, NoisyComparison)


def compared(records: Iterable[Measurement]) -> Compared | None:
    """Returns what the table compares, or None if there is nothing to compare.

    It is what `steadylens compare` measures; or, in a run of the paper, the original network, that behind the
    restorer, and that trained on noise instead.
    """
    names = unique(record.network for record in records if isinstance(record, COUNTED | Certificate))
    if ORIGINAL in names:
        pairs = [name for name in (TOGETHER, RESTORED) if name in names][:1]
        baselines = [name for name in (AUGMENTED, FINE_TUNED) if name in names][:1]
        reference, others, restored = ORIGINAL, (*pairs, *baselines), tuple(pairs)
    else:
        reference, others = ALONE, tuple(name for name in names if name != ALONE)
        restored = tuple(name for name in others if name not in {AUGMENTED, FINE_TUNED})
    if reference not in names or not restored:
        return None
    return Compared(reference=reference, others=others, restored=restored)


def decision_tables(records: Sequence[Measurement]) -> list[Table]:
    """Makes the table, if a classifier was measured alone and behind a restorer.

    A question that was not measured has a row that says so, and which command and option measure it.
    """
    if not (networks := compared(records)):
        return []
    asked: tuple[tuple[str, str, Callable[[Sequence[Measurement], Compared], list[TableRow]]], ...] = (
        ("Clean images", "", _clean),
        ("Noise", "", _noise),
        ("Damage of the real world", "--corruptions", _damage),
        ("Proven answers", "--certify", _proven),
        ("Attacks", "--attacks", _attacked),
        ("Cost", "", _costs),
    )
    known = [record for record in records if getattr(record, "network", None) in networks.names]
    paired = [record for record in records if isinstance(record, COMPARISONS)]
    dashes = (Cell(text=DASH),) * (len(networks.names) + len(networks.others))
    rows: list[TableRow] = []
    for title, option, make in asked:
        way = f"Not measured. steadylens compare measures it{f' with {option}' if option else ''}."
        rows += make([*known, *paired], networks) or [
            TableRow(cells=(Cell(text=title), *dashes, Cell(text=way)))
        ]
    names = [f"difference {name}" for name in networks.others if len(networks.others) > 1]
    table = Table(
        title="With and without the restorer",
        caption="Shares of the test images in per cent, and differences from the classifier alone in "
        "percentage points. A number is bold where a gain can be measured: the interval of its difference "
        "excludes zero.",
        notes_caption=INTERVALS
        + (NOISE_DIFFERENCES if select(paired, NoisyComparison) else "")
        + (KINDS_INTERVALS if select(known, Corrupted) else ""),
        source=source(
            [record for record in known if isinstance(record, COUNTED | Certificate)],
            count="images or noisy images in a number",
        ),
        header=("", *networks.names, *(names or ["difference"]), "what it means"),
        rows=tuple(rows),
        sentences=True,
    )
    return [table]


def _clean(records: Sequence[Measurement], networks: Compared) -> list[TableRow]:
    known = {(row.network, 1): row for row in select(records, Accuracy) if row.k == 1}
    if not (shares := shares_right(known, networks, [1])):
        return []
    changes = differences(shares, networks)
    for name, row, turned in _against_reference(select(records, Comparison), networks):
        sides = row.only_first, row.only_second
        if name in changes:
            changes[name] = Estimate(*paired_difference(*(sides[::-1] if turned else sides), row.samples))
    question = Question(
        title="Clean images", note="", images=images_of(known[name, 1] for name in shares),
        shares=shares, changes=changes, phrase="clean images are classified correctly",
    )  # fmt: skip
    return [question_row(question, networks)]


def _against_reference(rows: Iterable[Paired], networks: Compared) -> Iterator[tuple[str, Paired, bool]]:
    """Yields records that compare a network with the classifier alone, and whether that one comes first."""
    for row in rows:
        if row.second == networks.reference and row.first in networks.others:
            yield row.first, row, False
        elif row.first == networks.reference and row.second in networks.others:
            yield row.second, row, True


def _noise(records: Sequence[Measurement], networks: Compared) -> list[TableRow]:
    """Makes a row for each kind of noise, the mean over all strengths; and one for the strongest Gaussian."""
    measured = [row for row in select(records, Stability) if row.population == "all" and row.sigma_grey > 0]
    by_mode = grouped(measured, by=lambda row: row.noise)
    rows = []
    for kind, modes in grouped(by_mode, by=lambda noise: noise_words(noise).name).items():
        noise = modes[0]  # of the ways to store noisy images, the one that was measured first
        words = noise_words(noise)
        known = {(row.network, row.sigma_grey): row for row in by_mode[noise]}
        sigmas = sorted(common_conditions(known))
        if not sigmas:
            continue
        low, high = (f"{SIGMA} = {sigma:g}" for sigma in (sigmas[0], sigmas[-1]))
        asked: list[tuple[float | None, str, str, str]] = []
        if len(sigmas) > 1 or not words.gaussian:
            asked.append((None, f"{kind} noise", f"mean of {low} to {high}", f"images with {kind} noise"))
        if words.gaussian:
            asked.append((sigmas[-1], "strong Gaussian noise", high, f"images with noise of {high}"))
        for sigma, title, note, images in asked:
            chosen = sigmas if sigma is None else [sigma]
            if not (shares := shares_right(known, networks, chosen)):
                continue
            changes = differences(shares, networks)
            for name, row, turned in _against_reference(select(records, NoisyComparison), networks):
                if (row.noise, row.sigma_grey) == (noise, sigma) and name in changes:
                    sign = -1 if turned else 1
                    changes[name] = Estimate(
                        sign * row.difference, *sorted((sign * row.lower, sign * row.upper))
                    )
            question = Question(
                title=f"{title[0].upper()}{title[1:]}", note=f"{note} grey levels of 255; {words.storage}",
                images=images_of(known[name, each] for name in shares for each in chosen),
                shares=shares, changes=changes, phrase=f"{images} are classified correctly",
            )  # fmt: skip
            rows.append(question_row(question, networks))
    return rows


def _damage(records: Sequence[Measurement], networks: Compared) -> list[TableRow]:
    """Makes a row for all kinds of damage, and rows for those that lose most and gain most."""
    rows = [row for row in select(records, Corrupted) if row.severity > 0]
    known = {(row.network, (row.corruption, row.severity)): row for row in rows}
    kinds = grouped(sorted(common_conditions(known)), by=lambda condition: condition[0])
    if not (overall := shares_right(known, networks, [each for some in kinds.values() for each in some])):
        return []
    count = f"{len(kinds)} kinds" if len(kinds) > 1 else "1 kind"
    images = images_of(known[name, each] for name in overall for some in kinds.values() for each in some)
    questions = [
        Question(
            title="Damage of the real world", note=f"mean of {count}", images=images, shares=overall,
            changes=differences(overall, networks) | _paired_under_damage(records, networks, [*kinds]),
            phrase="damaged images are classified correctly",
        )
    ]  # fmt: skip
    # A kind is chosen by its number, so the intervals of all kinds must hold together.
    strict = joint_confidence(len(kinds))
    changes = {
        kind: differences(shares_right(known, networks, some, confidence=strict), networks)
        | _paired_under_damage(records, networks, [kind], confidence=strict)
        for kind, some in kinds.items()
    }
    for choose, note in ((min, "lowest"), (max, "highest")):
        chosen = [_tied(changes, name, choose) for name in networks.restored if name in overall]
        for tied in unique(each for each in chosen if len(each) < len(kinds)):
            title = ", ".join(map(damage_name, tied))
            many = len(tied) > MOST_NAMED
            questions.append(
                Question(
                    title=f"Damage: {f'{len(tied)} kinds' if many else title}", images=images,
                    note=f"{note} difference of {count}" + (", the same for each" if len(tied) > 1 else ""),
                    shares=shares_right(known, networks, [each for kind in tied for each in kinds[kind]]),
                    changes=_mean_changes([changes[kind] for kind in tied]),
                    phrase=f"images with {'such damage' if many else title} are classified correctly",
                )
            )  # fmt: skip
    return [question_row(question, networks) for question in questions]


def _tied(
    changes: Mapping[str, Mapping[str, Estimate]], name: str, choose: Callable[[Iterable[float]], float]
) -> tuple[str, ...]:
    """Returns the kinds of damage with the lowest, or the highest, difference of a network."""
    extreme = choose(found[name].value for found in changes.values())
    return tuple(
        kind for kind, found in changes.items() if math.isclose(found[name].value, extreme, abs_tol=1e-9)
    )


def _mean_changes(changes: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Returns the means of differences and of their ends: where all intervals hold, the mean lies within."""
    return {
        name: Estimate(*(fmean(values) for values in zip(*(each[name] for each in changes), strict=True)))
        for name in changes[0]
    }


def _paired_under_damage(
    records: Sequence[Measurement],
    networks: Compared,
    kinds: Sequence[str],
    *,
    confidence: float = CONFIDENCE,
) -> dict[str, Estimate]:
    """Returns the mean differences over kinds of damage that were measured image by image."""
    pairs = {
        (row.first, row.corruption): row
        for row in select(records, CorruptedComparison)
        if row.second == networks.reference
    }
    found = {}
    for name in networks.others:
        per_image = paired_differences([pairs.get((name, kind)) for kind in kinds])
        if per_image is not None:
            found[name] = Estimate(*mean_difference(per_image, confidence=confidence))
    return found


def _proven(records: Sequence[Measurement], networks: Compared) -> list[TableRow]:
    """Makes a row for certified accuracy and one for the mean radius, with the noise that serves best.

    That is where one of the networks has the highest certified accuracy; all are shown with that noise.
    """
    by_sigma = grouped(select(records, Certificate), by=lambda row: row.sigma)
    latest = [{row.network: row for row in some} for some in by_sigma.values()]
    known = [some for some in latest if networks.reference in some and len(some) > 1]
    if not known:
        return []
    certificates = max(known, key=lambda some: max(_certified(row).value for row in some.values()))
    radii = {name: proven_radii(row) for name, row in certificates.items()}
    shares = {name: _certified(row) for name, row in certificates.items()}
    changes = differences(shares, networks)
    before = radii[networks.reference]
    for name in changes:
        if (after := radii[name]).keys() == before.keys():
            only_after = sum(after[index] >= RADIUS > before[index] for index in after)
            only_before = sum(before[index] >= RADIUS > after[index] for index in after)
            changes[name] = Estimate(*paired_difference(only_after, only_before, len(after)))
    sigma, alpha = certificates[networks.reference].sigma, certificates[networks.reference].alpha
    chosen = f", of {len(known)} that at which a network scores best on these images"
    chosen = chosen if len(known) > 1 else ""
    question = Question(
        title=f"Proven answers within {RADIUS:g}",
        note=f"vote of noisy versions, {SIGMA} = {sigma:g}{chosen}; a proof errs with probability {alpha:g}",
        images=min(len(certificates[name].images) for name in shares), shares=shares, changes=changes,
        phrase=f"images have a right answer that no change of the image below {RADIUS:g} can alter",
        remark="This holds for the vote of many noisy versions, not for a single answer.",
    )  # fmt: skip
    largest = max(largest_radius(row) for row in certificates.values())
    return [question_row(question, networks), _radius_row(radii, networks, largest=largest)]


def _certified(record: Certificate) -> Estimate:
    """Returns certified accuracy at `RADIUS`."""
    right, images = certified_accuracy(record, RADIUS)
    return Estimate(right / images, *wilson_interval(right, images))


def _radius_row(radii: Mapping[str, Mapping[int, float]], networks: Compared, *, largest: float) -> TableRow:
    """Makes the row of the mean radius, and of its difference on the same images.

    As shares of the largest radius, radii lie in [0, 1], where the intervals of shares hold.
    """
    largest = max(largest, *(radius for some in radii.values() for radius in some.values()))
    means = {name: _scaled(_mean_share(some, largest), largest) for name, some in radii.items()}
    before = radii[networks.reference]
    changes = {}
    for name in (name for name in networks.others if name in radii):
        after = radii[name]
        if after.keys() == before.keys():
            shares = [(after[index] - before[index]) / largest for index in after]
            changes[name] = _scaled(mean_difference(shares), largest)
        else:
            apart = _mean_share(after, largest), _mean_share(before, largest)
            changes[name] = _scaled(shares_difference(*apart), largest)
    told, best = [], set()
    for name, change in changes.items():
        subject, ends = subject_of(name), f"{change.lower:+.2f} to {change.upper:+.2f}"
        if change.lower <= 0 <= change.upper:
            told.append(f"No measurable difference {subject} ({ends}).")
            continue
        best.add(name if change.value > 0 else networks.reference)
        told.append(
            f"{'Better' if change.value > 0 else 'Worse'}: right answers are proven within "
            f"{means[name].value:.2f} on average {subject}, instead of {means[networks.reference].value:.2f}."
        )
    cells = [
        Cell(text=f"{found.value:.2f}", note=f"{found.lower:.2f}{DASH}{found.upper:.2f}", best=name in best)
        if (found := means.get(name))
        else Cell(text=DASH)
        for name in networks.names
    ]
    cells += [
        Cell(text=f"{found.value:+.2f}", note=f"{found.lower:+.2f} to {found.upper:+.2f}")
        if (found := changes.get(name))
        else Cell(text=DASH)
        for name in networks.others
    ]
    images = f"{min(map(len, radii.values())):,} images"
    title = Cell(
        text="Mean radius of the proofs",
        note=f"{images}; Euclidean, images in [0, 1]; 0 for wrong and for no answers",
    )
    return TableRow(cells=(title, *cells, Cell(text=" ".join(told))))


def _mean_share(radii: Mapping[int, float], largest: float) -> Estimate:
    """Returns the mean of radii as a share of the largest.

    Wilson's interval is that of right and wrong answers, which vary the most of all values in [0, 1].
    """
    share = fmean(radii.values()) / largest
    return Estimate(share, *wilson_interval(share * len(radii), len(radii)))


def _scaled(shares: Iterable[float], largest: float) -> Estimate:
    return Estimate(*(largest * share for share in shares))


def _attacked(records: Sequence[Measurement], networks: Compared) -> list[TableRow]:
    """Makes rows for the least and the largest bound of each norm; of several attacks the worst counts."""
    rows = []
    attacks = [row for row in select(records, Attacked) if row.epsilon > 0]
    for norm, some in grouped(attacks, by=lambda row: row.norm).items():
        same = grouped(some, by=lambda row: (row.network, row.epsilon))
        worst = {condition: _worst(those) for condition, those in same.items()}
        bounds = sorted(common_conditions(worst))
        for epsilon in unique([*bounds[:1], *bounds[-1:]]):
            if not (shares := shares_right(worst, networks, [epsilon])):
                continue
            blind = any(not worst[n, epsilon].knows_restorer for n in networks.restored if n in shares)
            names = ", ".join(unique(worst[name, epsilon].attack for name in shares))
            question = Question(
                title=f"Attack within {_bound(norm, epsilon)}",
                note=f"{names}; {NORMS[norm]}" + ("; does not know the restorer" if blind else ""),
                images=images_of(worst[name, epsilon] for name in shares),
                shares=shares, changes=differences(shares, networks),
                phrase="attacked images are classified correctly",
                remark=BLIND if blind else NO_DEFENCE if epsilon == bounds[-1] else "",
            )  # fmt: skip
            rows.append(question_row(question, networks))
    return rows


def _worst(records: Sequence[Attacked]) -> Attacked:
    """Returns the attack that leaves the fewest right answers, of those that know the restorer if any do."""
    knowing = [row for row in records if row.knows_restorer]
    return min(knowing or records, key=lambda row: row.correct / row.samples)


def _bound(norm: str, epsilon: float) -> str:
    """Returns the text of a bound; that of each pixel is usually given in grey levels."""
    levels = round(255 * epsilon)
    return f"{levels}/255" if norm == "linf" and math.isclose(levels, 255 * epsilon) else f"{epsilon:.3g}"


def _costs(records: Sequence[Measurement], networks: Compared) -> list[TableRow]:
    known = {(row.network, row.samples): row for row in select(records, Cost)}
    if not (batches := common_conditions(known)):
        return []
    found = {name: row for (name, batch), row in known.items() if batch == max(batches)}
    if networks.reference not in found or len(found) < 2:
        return []
    size = f"{found[networks.reference].size} x {found[networks.reference].size} pixels"
    milliseconds = {name: row.milliseconds for name, row in found.items()}
    millions = {name: row.multiplications / 1e6 for name, row in found.items()}
    rows = []
    for title, note, told, numbers in (
        ("Time", f"milliseconds, batches of {max(batches)}", "takes {} times as long", milliseconds),
        ("Computation", "million multiply-adds", "needs {} times as many multiply-adds", millions),
    ):
        before = numbers[networks.reference]
        texts = {name: f"{value:.3g}" if value < 100 else f"{value:,.0f}" for name, value in numbers.items()}
        factors = {name: f"{value / before:.3g}" for name, value in numbers.items() if before}
        others = [name for name in networks.others if name in factors]
        parts = " and ".join(f"{told.format(factors[name])} {subject_of(name)}" for name in others)
        cells = [Cell(text=f"{title} for an image", note=f"{note}; {size}")]
        cells += [Cell(text=texts.get(name, DASH)) for name in networks.names]
        cells += [Cell(text=f"{TIMES} {factors[n]}" if n in others else DASH) for n in networks.others]
        rows.append(TableRow(cells=(*cells, Cell(text=f"An image {parts}." if parts else ""))))
    return rows
