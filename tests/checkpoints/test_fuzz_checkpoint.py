"""Whatever a file of weights holds, reading it ends soon, in bounded memory, with a net or one sentence."""

import json
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from steadylens.checkpoints.checkpoint import load_model, load_state, save_model
from steadylens.errors import CheckpointError
from steadylens.nets.architecture import describe
from steadylens.nets.classification import FusedClassifier
from steadylens.nets.restoration import GaussianSmoothing, RestorationNet
from steadylens.nets.weights import MAX_HEADER_BYTES, read_weights

MUTATED = 2_400
GROWTH_BYTES = 256 * 2**20
"""What the process may grow by while it reads all of them; the largest file has 20 kB."""

LONGEST_SENTENCE = 500

NUMBERS = (
    -1, 0, 1, 2, 3, 4, 11, 13, 255, 2**31, 2**63, 10**9, 10**30, -(10**9), 0.5, 3.0, 1e9, 1e300, 1e-300,
    float("nan"), float("inf"), True, None, "3", "", [3], {"kind": "Identity"},
)  # fmt: skip
KINDS = ("RestorationNet", "DongNet", "GaussianSmoothing", "SignNet", "FusedClassifier", "Identity", "", "?")
NAMES = ("kind", "depth", "channels", "padding", "classes", "sigma_pixels", "restorer", "classifier", "width")
TYPES = (
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "C64", "F4",
    "F6_E2M3", "F8_E4M3", "F8_E5M2", "F8_E8M0", "f32", "", None, 3,
)  # fmt: skip


def nets() -> Iterator[nn.Module]:
    yield RestorationNet(depth=3)
    yield GaussianSmoothing(sigma_pixels=1.3)
    yield FusedClassifier(GaussianSmoothing(), FusedClassifier(RestorationNet(depth=3), nn.Identity()))


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header and the values of a file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: object, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def with_plain(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Returns the file with changed data about the net."""
    header, values = parts(content)
    plain = json.loads(header["__metadata__"]["steadylens"])
    changed = change(plain)
    header["__metadata__"]["steadylens"] = json.dumps(plain if changed is None else changed)
    return joined(header, values)


# Ways to damage a file: each takes a whole one.


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flip_bits_of_the_header(content: bytes, chance: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    return flip_bits(content[: 8 + size], chance) + content[8 + size :]


def truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.choice([chance.randrange(40), chance.randrange(len(content))])]


def lengthen(content: bytes, chance: random.Random) -> bytes:
    return content + chance.randbytes(chance.randint(1, 5_000))


def lie_about_the_length(content: bytes, chance: random.Random) -> bytes:
    length = chance.choice(
        [0, 1, 2**20, 2**24, 10**8, 2**31, 2**32, 2**40, 2**63, 2**64 - 1, chance.randrange(2_000)]
    )
    return struct.pack("<Q", length) + content[8:]


def cut_and_paste(content: bytes, chance: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        place, other, length = chance.randrange(8 + size), chance.randrange(8 + size), chance.randint(1, 30)
        changed[place : place + chance.randint(0, length)] = changed[other : other + length]
    return bytes(changed)


def edit_a_tensors_entry(content: bytes, chance: random.Random) -> bytes:
    header, values = parts(content)
    names = [name for name in header if name != "__metadata__"]
    if not names:
        header["extra"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        names = ["extra"]
    entry = header[chance.choice(names)]
    match chance.randrange(5):
        case 0:
            entry["dtype"] = chance.choice(TYPES)
        case 1:
            entry["shape"] = chance.choice([[], [0], [-1], [10**9, 10**9], [2**63, 2], [1] * 500, 3, None])
        case 2:
            entry["shape"] = entry["shape"][::-1]
        case 3:
            ends = chance.choice(
                [[0, 0], [4, 0], [-4, 4], [0, 2**63], [0, 10**12], [0], [], None, ["0", "4"]]
            )
            entry["data_offsets"] = ends
        case _:
            header[chance.choice(["", "layers.9.weight", "\N{GREEK SMALL LETTER SIGMA}"])] = dict(entry)
    return joined(header, values)


def store_another_type(content: bytes, chance: random.Random) -> bytes:
    header, _ = parts(content)
    kind = chance.choice([
        torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool,
        torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
    ])  # fmt: skip
    scale = chance.choice([1, 1e30, float("inf"), float("nan")])
    state = RestorationNet(depth=3).state_dict()
    tensors = {name: (value.nan_to_num() * scale).to(kind) for name, value in state.items()}
    return save(tensors, metadata=header["__metadata__"])


def edit_the_architecture(content: bytes, chance: random.Random) -> bytes:
    def change(plain: dict[str, Any]) -> None:
        place = plain["architecture"]
        while place["kind"] == "FusedClassifier" and chance.random() < 0.7:
            place = place[chance.choice(["restorer", "classifier"])]
        for _ in range(chance.randint(1, 2)):
            match chance.randrange(4):
                case 0:
                    place["kind"] = chance.choice(KINDS)
                case 1:
                    place[chance.choice(NAMES)] = chance.choice(NUMBERS)
                case 2:
                    known = [name for name in place if name != "kind"]
                    place[chance.choice(known or ["depth"])] = chance.choice(NUMBERS)
                case _:
                    place.pop(chance.choice(list(place)), None)
        plain.pop("sha256")

    def guarded(plain: dict[str, Any]) -> None:
        try:
            change(plain)
        except (KeyError, TypeError, AttributeError, IndexError):
            plain["architecture"] = {"kind": "RestorationNet", "depth": 10**9, "channels": 10**9}

    return with_plain(content, guarded)


def grow_the_architecture(content: bytes, chance: random.Random) -> bytes:
    settings = chance.choice([
        {"kind": "RestorationNet", "depth": 11, "channels": 10 ** chance.randint(3, 30)},
        {"kind": "RestorationNet", "depth": 10**9, "channels": 3},
        {"kind": "DongNet", "channels": 10 ** chance.randint(3, 30)},
        {"kind": "SignNet", "classes": 10 ** chance.randint(3, 30)},
        {"kind": "GaussianSmoothing", "sigma_pixels": 10.0 ** chance.randint(3, 300)},
    ])  # fmt: skip
    return with_plain(content, lambda plain: plain.update(architecture=settings))


def nest_deeply(content: bytes, chance: random.Random) -> bytes:
    depth = chance.choice([10, 100, 900, 3_000, 20_000])
    opening, closing = chance.choice([
        ("[", "]"),
        ('{"a":', "}"),
        ('{"kind":"FusedClassifier","classifier":{"kind":"Identity"},"restorer":', "}"),
    ])  # fmt: skip
    nest = opening * depth + chance.choice(["0", '{"kind":"Identity"}']) + closing * depth
    header, values = parts(content)
    place = chance.choice(["architecture", "about", "sha256"])
    filler = {"architecture": '{"kind":"Identity"}', "about": "{}", "sha256": "null", place: nest}
    fields = ",".join(f'"{name}":{text}' for name, text in filler.items())
    header["__metadata__"]["steadylens"] = f'{{"format":1,"kind":"model",{fields}}}'
    if chance.random() < 0.5:
        header, values = {"__metadata__": header["__metadata__"]}, b""
    return joined(header, values)


def nest_the_header(content: bytes, chance: random.Random) -> bytes:
    depth = chance.choice([10, 200, 5_000, 100_000])
    text = b'{"a":' * depth + b"0" + b"}" * depth
    return struct.pack("<Q", len(text)) + text + content


def replace_the_data(content: bytes, chance: random.Random) -> bytes:
    values: list[object] = [None, 3, "text", [], {}, {"kind": []}, [[]], True, "0" * 64, {"format": 1}]
    names = ["architecture", "about", "sha256", "format", "kind"]
    if chance.random() < 0.2:
        return with_plain(content, lambda _: chance.choice(values))
    return with_plain(content, lambda plain: plain.update({chance.choice(names): chance.choice(values)}))


MUTATIONS = (
    flip_bits, flip_bits_of_the_header, truncate, lengthen, lie_about_the_length, cut_and_paste,
    edit_a_tensors_entry, store_another_type, edit_the_architecture, grow_the_architecture, nest_deeply,
    nest_the_header, replace_the_data,
)  # fmt: skip


def read_mutated(folder: Path, count: int) -> Counter[str]:
    """Reads so many mutated files, and counts what came of them by mutation."""
    path = folder / "net.safetensors"
    originals = []
    for net in nets():
        save_model(path, net, about={"stage": "a stage", "seed": 3})
        originals.append(path.read_bytes())
    outcomes: Counter[str] = Counter()
    for number in range(count):
        chance = random.Random(number)  # noqa: S311 - no secret
        mutation = MUTATIONS[number % len(MUTATIONS)]
        path.write_bytes(mutation(originals[number // len(MUTATIONS) % len(originals)], chance))
        try:
            net, about = load_model(path)
        except CheckpointError as error:
            sentence = str(error)
            outcomes[f"{mutation.__name__}: refused"] += 1
            if "\n" in sentence or len(sentence) > LONGEST_SENTENCE:
                raise AssertionError(f"{mutation.__name__}: {sentence[:2_000]}") from error
        else:
            assert isinstance(about, dict)
            assert describe(net)
            assert all(value.dtype == torch.float32 for value in net.state_dict().values())
            assert all(value.isfinite().all() for value in net.state_dict().values())
            outcomes[f"{mutation.__name__}: read"] += 1
    return outcomes


def test_thousands_of_mutated_files_give_a_net_or_one_sentence_in_bounded_memory(tmp_path: Path) -> None:
    code = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_fuzz_checkpoint import read_mutated\n"
        "folder = Path(sys.argv[1])\n"
        "read_mutated(folder, 30)\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {GROWTH_BYTES}, resource.RLIM_INFINITY))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"outcomes = read_mutated(folder, {MUTATED})\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(json.dumps([outcomes, (after - before) * 1024]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3_000:]
    outcomes, growth = json.loads(run.stdout)
    assert growth < GROWTH_BYTES
    assert sum(outcomes.values()) == MUTATED
    refused = {name.split(":")[0] for name in outcomes if name.endswith("refused")}
    assert refused == {mutation.__name__ for mutation in MUTATIONS}
    assert sum(count for name, count in outcomes.items() if name.endswith("refused")) > MUTATED / 2
    assert any(name.endswith("read") for name in outcomes)


@pytest.mark.parametrize("read", [load_model, load_state, read_weights])
@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 90_000_000, 2**32, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read(
    tmp_path: Path, length: int, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "net.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        file.truncate(min(8 + length, 2**33))  # it is as long as it claims, without taking any space
    with pytest.raises(CheckpointError, match=rf"claims a header of {length:,} bytes, and at most 4,194,304"):
        read(path)


@pytest.mark.parametrize("read", [load_model, load_state, read_weights])
def test_a_header_of_the_size_that_is_allowed_is_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER_BYTES) + b"{}".ljust(MAX_HEADER_BYTES))
    with pytest.raises(CheckpointError, match=r"was not written by steadylens|holds no state dict"):
        read(path)
