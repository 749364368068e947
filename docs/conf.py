"""The site: pages of this folder, and a reference of public names from docstrings; `make docs` builds it."""

from __future__ import annotations

import builtins
import inspect
import pydoc
import re
import sys
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.ext import napoleon
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import qscale  # noqa: E402 - found in the checkout, whether it is installed or not
from qscale.cli import main  # noqa: E402

project = "qscale"
author = "The qscale developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = qscale.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_*"]

html_theme = "furo"
html_title = "qscale"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # headings of pages that are a part of another file

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
highlight_language = "none"  # of blocks without a fence: shell, and what it prints
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
nitpicky = True
#: Other packages have sites of their own, which a site that works without a network does not link to. Of
#: names below `qscale` each has to be found.
nitpick_ignore_regex = [("py:.*", r"(?!qscale).*")]

#: The site's navigation: pages under their headings, and short titles. A page that is not there is left out.
NAVIGATION = {
    "Begin": {"concepts": "Concepts", "formats": "Formats and recipes"},
    "Round, train, quantize": {
        "kernels": "Kernels",
        "dialects": "Dialects",
        "training": "Training with quantization",
        "ptq": "Quantization after training",
        "kv": "Keys and values",
    },
    "Measure": {"study": "Studies", "sweeps": "Running studies", "reliability": "What a study survives"},
    "Fit and use": {"laws": "Laws", "planning": "Planning", "report": "Reports"},
    "What came out": {
        "qat": "272 runs with training",
        "ptq_evidence": "1,035 runs after training",
        "project/benchmarks": "Speed",
        "project/results": "Timings",
    },
    "Take part": {
        "extending": "Extending",
        "reference/index": "Reference",
        "project/contributing": "Contributing",
        "project/changelog": "Changelog",
    },
}

#: Files outside of this folder that are pages of the site, by the link that a code host follows.
ELSEWHERE = {
    "../CHANGELOG.md": "project/changelog.md",
    "../CONTRIBUTING.md": "project/contributing.md",
    "../benchmarks/README.md": "project/benchmarks.md",
    "../benchmarks/results.md": "project/results.md",
}


class ClickHelp(SphinxDirective):
    """What `qscale COMMAND --help` says; the command is the argument."""

    required_arguments = 0
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Follow the words from group to command."""
        words = (self.arguments or [""])[0].split()
        shown: dict[str, Any] = {**main.context_settings, "terminal_width": 100}
        command, context = main, click.Context(main, info_name="qscale", **shown)
        for word in words:
            assert isinstance(command, click.Group)
            found = command.get_command(context, word)
            if found is None:
                raise self.error(f"there is no command qscale {' '.join(words)}")
            command, context = found, click.Context(found, info_name=word, parent=context, **shown)
        text = command.get_help(context)
        return [nodes.literal_block(text, text, language="none")]


def links_to_pages(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Point links of the pages at pages of the site, where a code host has the file itself."""
    for file, page in ELSEWHERE.items():
        source[0] = re.sub(rf"\]\({re.escape(file)}(?=[)#])", f"](/{page}", source[0])


def navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Hang all pages on the first one, which as a file has none of Sphinx's words."""
    if name == app.config.root_doc:
        for heading, pages in NAVIGATION.items():
            there = [page for page in pages if (Path(app.srcdir) / f"{page}.md").is_file()]
            entries = [f"{pages[page]} <{page}>" for page in there]
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {heading}", *entries, "```\n"])


def google_docstrings(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Read the sections of docstrings. The extension would take `a: b` of an attribute for type and text."""
    if what not in ("attribute", "data", "property"):
        config = napoleon.Config(napoleon_use_param=True, napoleon_use_rtype=False)
        lines[:] = napoleon.GoogleDocstring(lines, config, app, what, name, value, options).lines()


def no_links_to_builtins(_app: Sphinx, document: nodes.document) -> None:
    """Leave `type` and the like as words: else they are found as attributes of that name."""
    for node in list(document.findall(pending_xref)):
        if node.get("refdomain") == "py" and hasattr(builtins, node["reftarget"]):
            node.replace_self(nodes.Text(node["reftarget"]))


def resolve_definition(app: Sphinx, env: Any, node: Any, content: Any) -> Any:
    """Find what is public under another name than where it is defined; what is not public stays a word.

    A name below `qscale` that does not exist is none of both, and a warning.
    """
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    wanted = pydoc.locate(target) if target.startswith("qscale.") else None
    if inspect.isclass(wanted) or inspect.isfunction(wanted):
        for name in domain.objects:
            if name.endswith(f".{wanted.__name__}") and pydoc.locate(name) is wanted:
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, node["reftype"], name, node, content
                )
    return content if wanted is not None else None


def setup(app: Sphinx) -> None:
    """Register what this file defines."""
    app.add_directive("click-help", ClickHelp)
    app.connect("source-read", links_to_pages)
    app.connect("source-read", navigation)
    app.connect("autodoc-process-docstring", google_docstrings)
    app.connect("doctree-read", no_links_to_builtins)
    app.connect("missing-reference", resolve_definition)
