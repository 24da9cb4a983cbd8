"""What the package shows at its top: names that load when they are used."""

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import steadylens

ROOT = Path(__file__).parent.parent
SOURCES = sorted(Path(steadylens.__file__).parent.glob("**/*.py"))


def imports_for_types() -> dict[str, str]:
    """Returns the names that are imported for type checkers alone, each with its module."""
    tree = ast.parse(Path(steadylens.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    statements = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert all(len(node.names) == 1 and node.names[0].asname == node.names[0].name for node in statements)
    return {node.names[0].name: str(node.module) for node in statements}


def test_the_names_are_sorted_and_each_has_a_home() -> None:
    assert steadylens.__all__ == sorted(steadylens._HOMES)


def test_type_checkers_see_the_same_names_in_the_same_homes() -> None:
    homes = {name: f"steadylens.{home}" for name, home in steadylens._HOMES.items()}
    assert imports_for_types() == homes


@pytest.mark.parametrize("name", steadylens.__all__)
def test_a_name_is_the_one_of_its_home(name: str) -> None:
    home = importlib.import_module(f"steadylens.{steadylens._HOMES[name]}")
    assert getattr(steadylens, name) is getattr(home, name)
    assert getattr(home, name).__module__ == home.__name__


@pytest.mark.parametrize("name", steadylens.__all__)
def test_a_place_may_be_given_as_a_text_wherever_it_may_be_given_as_a_path(name: str) -> None:
    found = getattr(steadylens, name)
    if inspect.isfunction(found):
        kinds = {key: str(each.annotation) for key, each in inspect.signature(found).parameters.items()}
        assert [key for key, kind in kinds.items() if "Path" in kind and "str" not in kind] == []


def test_all_names_can_be_seen_before_they_are_loaded() -> None:
    assert {*steadylens.__all__, "__version__"} == set(dir(steadylens))


def test_a_name_that_is_none_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'steadylens' has no attribute 'restorer'"):
        _ = steadylens.restorer


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert steadylens.__version__ == project["version"]


def test_no_module_is_long() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


@pytest.mark.parametrize("module", ["steadylens", "steadylens.cli"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'numpy', 'matplotlib', 'PIL', 'safetensors'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
