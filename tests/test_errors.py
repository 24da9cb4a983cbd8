"""The tree of errors in the docstring is the tree of the classes."""

import inspect
import re

import pytest

from steadylens import errors
from steadylens.errors import MissingExtraError, SteadylensError, StorageError, lacks_memory, reason_of

CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SteadylensError)
}


def drawn_bases() -> dict[str, set[str]]:
    """Returns the bases of each class by name, as in the docstring."""
    bases: dict[str, set[str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        node = re.match(r"(?P<indent>[│├└─ ]*)(?P<name>\w+Error)(?: \((?P<builtin>\w+)\))?(?:\s|$)", line)
        if node:
            depth = len(node["indent"]) // 4
            path[depth:] = [node["name"]]
            parent = path[depth - 1] if depth else "Exception"
            bases[node["name"]] = {parent, node["builtin"]} - {None}
    return bases


def test_the_docstring_has_every_class_and_no_other() -> None:
    assert drawn_bases().keys() == CLASSES.keys()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_has_the_bases_of_the_docstring(name: str) -> None:
    assert {base.__name__ for base in CLASSES[name].__bases__} == drawn_bases()[name]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_docstring_explains_a_class_as_its_own_docstring_does(name: str) -> None:
    kind = CLASSES[name]
    assert kind.__doc__
    if name != "SteadylensError":
        summary = kind.__doc__.splitlines()[0].removesuffix(".")
        drawn = re.search(rf"{name}(?: \(\w+\))? +(.+)", errors.__doc__ or "")
        assert drawn
        assert drawn[1].lower() == summary.lower()


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"SteadylensError"}))
def test_an_error_can_be_caught_as_the_builtin_that_a_caller_expects(name: str) -> None:
    others = {"StorageError": OSError, "MissingExtraError": ImportError, "WorkerLostError": RuntimeError}
    assert issubclass(CLASSES[name], others.get(name, ValueError))


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"MissingExtraError"}))
def test_an_error_shows_its_message(name: str) -> None:
    assert str(CLASSES[name]("size is 0, it must be at least 1")) == "size is 0, it must be at least 1"


def test_a_storage_error_shows_its_message_as_an_oserror_would_not() -> None:
    with pytest.raises(OSError, match=r"^cannot write there; choose another place$"):
        raise StorageError("cannot write there; choose another place")


def test_a_missing_library_comes_with_the_command_that_installs_it() -> None:
    error = MissingExtraError("matplotlib", "report")
    assert str(error) == "matplotlib is not installed; install it with: pip install 'steadylens[report]'"


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("[ONNXRuntimeError] Failed to allocate memory for requested buffer of size 9"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("something else"), False),
    ],
)
def test_a_lack_of_memory_is_recognised_in_messages_of_libraries(error: Exception, *, lacking: bool) -> None:
    assert lacks_memory(error) == lacking


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("it is damaged", "it is damaged"),
        ("\n  it is damaged\n  at 0x1", "it is damaged"),
        ("Exception from src/core.cpp:84:\nit is damaged\n", "it is damaged"),
        ("Exception from src/core.cpp:84:", "Exception from src/core.cpp:84:"),
        ("", "RuntimeError"),
    ],
)
def test_a_reason_is_one_useful_line(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason
