"""What the package shows at its top: names that load when they are used."""

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import steadylens

ROOT = Path(__file__).parent.parent
PACKAGE = Path(steadylens.__file__).parent
SOURCES = sorted(PACKAGE.glob("**/*.py"))
FACES = sorted(path.parent for path in PACKAGE.glob("**/__init__.pyi"))


def homes(folder: Path) -> dict[str, str]:
    """Returns the names that a package offers, as type checkers see them, each with its module."""
    tree = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
    package = ".".join(("steadylens", *folder.relative_to(PACKAGE).parts))
    statements = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(len(node.names) == 1 and node.names[0].asname == node.names[0].name for node in statements)
    return {node.names[0].name: f"{package}.{node.module}" for node in statements}


def listed(folder: Path) -> list[str]:
    """Returns what the stub of a package names in `__all__`."""
    tree = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
    (value,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    return list(ast.literal_eval(value))


def test_every_package_but_that_of_the_commands_has_a_face() -> None:
    packages = {path.parent for path in PACKAGE.glob("**/__init__.py")}
    assert {folder.name for folder in packages - set(FACES)} == {"cli"}


@pytest.mark.parametrize("folder", FACES, ids=lambda folder: folder.name)
def test_each_name_of_a_package_is_that_of_the_module_which_defines_it(folder: Path) -> None:
    known = homes(folder)
    assert listed(folder) == sorted(known)
    package = importlib.import_module(".".join(("steadylens", *folder.relative_to(PACKAGE).parts)))
    for name, home in known.items():
        found = getattr(package, name)
        assert found is getattr(importlib.import_module(home), name)
        assert found.__module__ == home


def test_what_the_package_offers_its_parts_offer_too() -> None:
    rooms = {name for folder in FACES if folder != PACKAGE for name in homes(folder)}
    assert {*steadylens.__all__} - rooms == {"SteadylensError", "estimate_noise", "psnr"}


@pytest.mark.parametrize("name", steadylens.__all__)
def test_a_place_may_be_given_as_a_text_wherever_it_may_be_given_as_a_path(name: str) -> None:
    found = getattr(steadylens, name)
    if inspect.isfunction(found):
        kinds = {key: str(each.annotation) for key, each in inspect.signature(found).parameters.items()}
        assert [key for key, kind in kinds.items() if "Path" in kind and "str" not in kind] == []


def test_all_names_can_be_seen_before_they_are_loaded() -> None:
    assert {*steadylens.__all__, "__version__"} == set(dir(steadylens))


def test_a_name_that_is_none_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="No steadylens attribute restorer"):
        _ = steadylens.restorer  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert steadylens.__version__ == project["version"]


def test_no_module_is_long_and_no_folder_full() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}
    counts = Counter(path.parent for path in SOURCES if path.name not in ("__init__.py", "__main__.py"))
    assert {str(folder): count for folder, count in counts.items() if count > 9} == {}


@pytest.mark.parametrize("module", ["steadylens", "steadylens.cli.main"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'numpy', 'matplotlib', 'PIL', 'safetensors'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
