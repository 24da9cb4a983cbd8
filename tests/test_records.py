"""Records are the same after writing and reading; files without records are refused with a reason."""

import json
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadylens.errors import RecordError, StorageError
from steadylens.records import (
    RECORD_TYPES,
    Accuracy,
    Attacked,
    Cost,
    Measurement,
    Provenance,
    Restoring,
    decode,
    encode,
    read_records,
    write_records,
)

PROVENANCE = Provenance(
    recipe="smoke",
    seed=7,
    data="synthetic signs, 43 classes",
    commit="unknown",
    versions=(("numpy", "2.3"), ("torch", "2.11")),
    device="CPU, 2 threads",
)
ACCURACY = Accuracy(
    provenance=PROVENANCE, samples=100, seconds=0.5, network="original", k=1, correct=99, lower=0.94, upper=1
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for the values of a record field's type."""
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is Ellipsis:
            return st.lists(values_of(items[0]), max_size=3).map(tuple)
        return st.tuples(*map(values_of, items))
    if is_dataclass(hint) and isinstance(hint, type):
        return records_of(hint)
    # Records are compared by equality, and NaN equals nothing; it has a test of its own.
    floats = st.floats(allow_nan=False)
    plain = {int: st.integers(), float: floats, str: st.text(max_size=8), bool: st.booleans()}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) is UnionType:
        return st.one_of(*(st.none() if part is NoneType else values_of(part) for part in get_args(hint)))
    return st.sampled_from(get_args(hint))


def records_of(record_type: type) -> st.SearchStrategy[Any]:
    """Returns a strategy for records of one type."""
    values = {name: values_of(hint) for name, hint in get_type_hints(record_type).items()}
    if "samples" in values:
        values["samples"] = st.integers(min_value=1)
    return st.builds(record_type, **values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder that examples of a property share: each overwrites the files of the one before."""
    return tmp_path_factory.mktemp("records")


@pytest.mark.parametrize("record_type", RECORD_TYPES.values(), ids=RECORD_TYPES)
@settings(max_examples=40, deadline=None)  # each example waits for the disk
@given(data=st.data())
def test_every_type_is_the_same_after_writing_and_reading(
    folder: Path, record_type: type[Measurement], data: st.DataObject
) -> None:
    records = data.draw(st.lists(records_of(record_type), max_size=2))
    path = folder / "records.jsonl"
    write_records(path, records)
    back = read_records(path)
    assert back == records
    assert list(map(hash, back)) == list(map(hash, records))  # a list instead of a tuple has no hash


def test_types_may_be_mixed_in_one_file_and_keep_their_order(tmp_path: Path) -> None:
    accuracies = [replace(ACCURACY, k=k) for k in (5, 1, 2)]
    cost = Cost(
        provenance=PROVENANCE, samples=50, seconds=1.0, network="L11", size=48, parameters=397_411,
        multiplications=1_073_000_000, milliseconds=2.5, training_seconds=60.0,
    )  # fmt: skip
    records = [accuracies[0], cost, *accuracies[1:]]
    write_records(tmp_path / "records.jsonl", records)
    assert read_records(tmp_path / "records.jsonl") == records


def test_infinities_survive(tmp_path: Path) -> None:
    record = replace(ACCURACY, lower=-math.inf, upper=math.inf)
    write_records(tmp_path / "records.jsonl", [record])
    assert read_records(tmp_path / "records.jsonl") == [record]


def test_what_is_not_a_number_survives(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", [replace(ACCURACY, lower=math.nan)])
    (record,) = read_records(tmp_path / "records.jsonl")
    assert isinstance(record, Accuracy)
    assert math.isnan(record.lower)


@pytest.mark.parametrize("text", ["停", "a\nb", "a\r\nb", "a\x85b", "a\u2028b", "a\udcffb", '"', "\0"])
def test_any_text_survives_line_ends_included(tmp_path: Path, text: str) -> None:
    record = replace(ACCURACY, network=text)
    write_records(tmp_path / "records.jsonl", [record])
    assert read_records(tmp_path / "records.jsonl") == [record]


def test_a_file_has_one_record_per_line_with_its_kind(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", [ACCURACY, ACCURACY])
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["Accuracy", "Accuracy"]


def test_no_record_makes_an_empty_file(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", [])
    assert (tmp_path / "records.jsonl").read_bytes() == b""
    assert read_records(tmp_path / "records.jsonl") == []


def test_the_record_types_are_the_measurements_by_name() -> None:
    assert {each.__name__: each for each in Measurement.__subclasses__()} == RECORD_TYPES


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ACCURACY.correct = 100  # type: ignore[misc]


# Files without records


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"absent\.jsonl cannot be read"):
        read_records(tmp_path / "absent.jsonl")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        read_records(tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(RecordError, match=r"records\.jsonl is no file of records, which are lines of JSON"):
        read_records(tmp_path / "records.jsonl")


def row_with(change: Callable[[dict[str, Any]], object]) -> str:
    row = {"kind": "Accuracy", **asdict(ACCURACY)}
    change(row)
    return json.dumps(row)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("", "Expecting"),
        ("[1, 2]", "integer"),
        ("3", "int"),
        ("null", "NoneType"),
        (row_with(lambda row: row.pop("kind")), "kind"),
        (row_with(lambda row: row.update(kind="Measurement")), "Measurement"),
        (row_with(lambda row: row.update(kind=["Accuracy"])), "unhashable"),
        (row_with(lambda row: row.pop("provenance")), "provenance"),
        (row_with(lambda row: row.update(provenance="smoke")), "str"),
        (row_with(lambda row: row["provenance"].pop("seed")), "seed"),
        (row_with(lambda row: row["provenance"].update(host="here")), "host"),
        (row_with(lambda row: row.pop("correct")), "missing correct"),
        (row_with(lambda row: (row.pop("samples"), row.pop("k"))), "missing k, samples"),
        (row_with(lambda row: row.update(top7=1)), "top7"),
    ],
)
def test_a_line_that_is_no_record_is_refused_by_number_with_the_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [ACCURACY])
    path.write_text(f"{path.read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=rf"records\.jsonl, line 2 .*{reason}.*; measure again"):
        read_records(path)


def test_a_field_that_came_later_may_be_missing_in_an_older_file() -> None:
    record = Attacked(
        provenance=PROVENANCE, samples=100, seconds=0.5, network="pair", attack="PGD", norm="l2",
        epsilon=0.5, steps=40, restarts=0, knows_restorer=True, correct=9, lower=0.0, upper=1.0,
    )  # fmt: skip
    plain = encode(record)
    assert plain.pop("only_transferred", "not written") is None
    assert decode(plain) == record


# Files appear whole or not at all


def test_a_failure_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [ACCURACY])

    def failing() -> Any:
        yield replace(ACCURACY, k=2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, failing())
    assert read_records(path) == [ACCURACY]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "demo" / "records.jsonl"
    write_records(path, [ACCURACY])
    assert read_records(path) == [ACCURACY]


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(StorageError, match=r"cannot write .*records\.jsonl"):
        write_records(tmp_path / "taken" / "records.jsonl", [ACCURACY])


@pytest.mark.parametrize("samples", [0, -1, "7", 1.5, None])
def test_a_record_without_samples_is_refused(tmp_path: Path, samples: object) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [ACCURACY])
    row = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**row, "samples": samples}), encoding="utf-8")
    with pytest.raises(RecordError, match=r"line 1 .* samples is .*, it must be at least 1"):
        read_records(path)


def test_infinite_decibels_are_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    row = Restoring(
        provenance=PROVENANCE, samples=1, seconds=0.0, network="L11", sigma_grey=0.0, noise="clipped",
        noisy_db=math.inf, restored_db=50.0,
    )  # fmt: skip
    write_records(path, [row])
    refused = pytest.fail
    json.loads(path.read_text(encoding="utf-8"), parse_constant=refused)
    assert read_records(path) == [row]
