"""The site builds without a warning, its links lead somewhere, and it needs no network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import click
import pytest
from documents.pages import PAGES, ROOT, text_of

from qscale.cli import main

#: What loads a file, by tag: the site may load its own alone.
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
#: Public names that are for annotations alone.
ALIASES = {"FloatArray", "Inputs", "Params"}
#: Relations of `link` that load nothing.
NAMES_ALONE = ("canonical", "index", "search", "next", "prev", "license", "author")


class Page(HTMLParser):
    """Anchors of a page, and where its links and files lead."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag in LOADS and found.get(LOADS[tag]) and found.get("rel") not in NAMES_ALONE:
            self.loads.append(found[LOADS[tag]])


def build(folder, source=ROOT / "docs"):
    """Build as `make docs` does."""
    options = ["--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    doctrees = ["--doctree-dir", str(folder / "doctrees")]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *options, *doctrees, str(source), str(folder / "site")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if sys.version_info < (3, 11):
        pytest.skip("Sphinx 9 needs Python 3.11")
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def dead(pages, site):
    """Links and files of pages that lead nowhere."""
    found = []
    for path, page in pages.items():
        for link in (*page.links, *page.loads):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = path if not name else (path.parent / name.partition("?")[0]).resolve()
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def test_links_and_anchors_of_the_site_lead_somewhere(pages, site):
    assert sum(len(page.links) for page in pages.values()) > 2000
    assert dead(pages, site) == []


def test_dead_link_and_dead_anchor_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"></a><a href="#there"></a><a href="b.html"></a>'
    )
    path = tmp_path / "a.html"
    assert dead({path: Page(path.read_text())}, tmp_path) == ["a.html: #there", "a.html: b.html"]


def test_site_loads_nothing_from_elsewhere(pages, site):
    outside = [load for page in pages.values() for load in page.loads if re.match(r"(?:[a-z]+:)?//", load)]
    assert outside == []
    for style in site.rglob("*.css"):
        urls = re.findall(
            r"url\(\s*['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", style.read_text(encoding="utf-8")
        )
        assert not [url for pair in urls for url in pair if re.match(r"(?:https?:)?//", url)], style.name


def test_every_page_is_in_the_navigation(pages, site):
    start = {link.partition("#")[0] for link in pages[site / "index.html"].links}
    names = [path.removeprefix("docs/")[:-3] for path in PAGES if path.startswith("docs/")]
    assert [name for name in names if name != "index" and f"{name}.html" not in start] == []


def test_reference_has_every_public_name(pages, site):
    import qscale
    from qscale import formats, kernels, laws, planning, quantizers

    anchors = set().union(*(page.anchors for page in pages.values()))
    anchors |= {anchor.removeprefix("module-") for anchor in anchors}
    for package in (formats, kernels, laws, planning, quantizers, laws.forms, laws.derived):
        within = {
            anchor.rpartition(".")[2] for anchor in anchors if anchor.startswith(f"{package.__name__}.")
        }
        assert set(package.__all__) - ALIASES <= within  # a table stands under the module that makes it
    homes = {f"{module}.{name}" for name, (module, attribute) in qscale._PUBLIC.items() if attribute}
    assert homes <= anchors


def test_reference_has_every_command():
    text = text_of("docs/reference/cli.md")

    def walk(command, words):
        assert f"```{{click-help}}{' ' if words else ''}{' '.join(words)}\n" in text, words
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                walk(command.get_command(click.Context(command), name), [*words, name])

    walk(main, [])


def slug(heading):
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", (*PAGES, "CHANGELOG.md", "docs/reference/index.md"))
def test_links_of_files_lead_somewhere(page):
    """As a code host follows them, where there is no site."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for name, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if re.match(r"[a-z]+:", name):
            continue
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {name}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page}: {name}#{anchor}"
