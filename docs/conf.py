"""Settings of the documentation site, which `make docs` builds with Sphinx.

The pages are the Markdown files beside this one; a reference page documents the names that a package's face
lists; the gallery is made from the scripts in examples/, which the build runs.
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as version_of
from typing import Any

from docutils.nodes import Element, Node
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import autosummary, napoleon
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.nodes import make_refnode
from sphinx_gallery.sorting import ExplicitOrder

project = "Steadylens"
author = "The Steadylens authors"
project_copyright = author
version = release = version_of("steadylens")

extensions: list[str] = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["gallery/*.md5"]
default_role = "py:obj"  # docstrings write names as `name`, and a name that is known becomes a link

myst_heading_anchors = 4

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_generate = False
autosummary.WELL_KNOWN_ABBREVIATIONS = (  # they end no sentence
    *autosummary.WELL_KNOWN_ABBREVIATIONS,  # type: ignore[assignment]
    *("Eq.", "Fig.", "Sec."),
)
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # those of a dataclass are what it is made of
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = "Steadylens"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/(?!restore_on_ray|imagenet_classifier)\w+\.py$",  # these need images of yours
    "within_subsection_order": ExplicitOrder(
        [
            "restore_photograph.py",
            "your_classifier.py",
            "noise_types.py",
            "train_on_folder.py",
            "stress_classifier.py",
            "steadiness.py",
            "imagenet_classifier.py",
            "restore_on_ray.py",
        ]
    ),
    "image_scrapers": ("matplotlib",),
    "download_all_examples": False,
    "capture_repr": (),
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "write_computation_times": False,
    "abort_on_example_error": True,
}


OUTSIDE = re.compile(r"\[([^]]+)\]\(\.\./[^)]+\)")
"""A link of a page to what lies outside docs/, which a code host shows and the site does not have."""

LONGEST_DEFAULT = 60
"""Characters of a default value that a signature shows; longer ones are three dots."""


class Face(SphinxDirective):
    """Documents a package by its face: what it is for, a table of its names, then each of them.

    `.. face:: steadylens.noise` takes the names that `steadylens.noise` exports; names after that choose
    among them.
    """

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[Node]:
        """Returns what autodoc and autosummary make of the package."""
        package, *chosen = self.arguments
        return self.parse_text_to_nodes("\n".join(_lines(package, chosen)))


def _lines(package: str, chosen: list[str]) -> Iterator[str]:
    face = import_module(package)
    names = chosen or sorted(face.__all__, key=lambda name: (not inspect.isclass(getattr(face, name)), name))
    opening = "currentmodule" if chosen else "automodule"
    yield from (f".. {opening}:: {package}", *([] if chosen else ["   :no-members:"]), "")
    yield from (".. autosummary::", "   :nosignatures:", "")
    yield from (f"   {name}" for name in names)
    yield ""
    for name in names:
        kind = "class" if inspect.isclass(getattr(face, name)) else "function"
        yield from (f".. auto{kind}:: {package}.{name}", "")


def unlink(app: Sphinx, document: str, source: list[str]) -> None:
    """Leaves of links to what the site does not have only their text."""
    source[0] = OUTSIDE.sub(r"\1", source[0])


def link_by_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: Element) -> Element | None:
    """Links a class that a signature names by its module to where its package's page documents it."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    for full, entry in env.domains.python_domain.objects.items():
        if full.count(".") == 2 and full.rpartition(".")[2] == name:
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text)
    return None


class _Long:
    """Stands for a default value that is too long to read in a signature."""

    def __repr__(self) -> str:
        return "..."


def shorten(  # noqa: PLR0917 - what Sphinx gives
    app: Sphinx,
    kind: str,
    name: str,
    documented: Any,
    options: object,
    given: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Leaves long default values out of the signature of a class."""
    if kind != "class" or given is None:
        return None
    made = signature(documented)
    parameters = [
        each.replace(default=_Long()) if len(repr(each.default)) > LONGEST_DEFAULT else each
        for each in made.parameters.values()
    ]
    short = made.replace(parameters=parameters, return_annotation=made.empty)
    return stringify_signature(short, unqualified_typehints=True), returned


class Docstring(GoogleDocstring):
    """A docstring of Google's style; that of a property is prose, with no type before a colon."""

    def _parse(self) -> None:
        if self._what == "property":
            self._what = "method"
        super()._parse()


napoleon.GoogleDocstring = Docstring  # type: ignore[attr-defined]


def setup(app: Sphinx) -> None:
    """Tells Sphinx of what stands above."""
    app.add_directive("face", Face)
    app.connect("autodoc-process-signature", shorten)
    app.connect("source-read", unlink)
    app.connect("missing-reference", link_by_name)
