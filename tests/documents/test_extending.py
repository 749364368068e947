"""docs/extending.md, followed: its changes are made in a copy of the package, and its checks run there."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from documents.pages import ROOT, agrees, blocks

PAGE = "docs/extending.md"
#: An editable install finds modules by a hook of its own, before any path.
PREFACE = """\
import contextlib, io, json, sys, warnings
sys.meta_path = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")]
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")  # the copy has no compiled kernels, and says so
import qscale
assert qscale.__file__.startswith(sys.argv[1]), qscale.__file__
printed = []
for block in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block, "a block of the page", "exec"), {})
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def change(package, diff):
    """Make one change: what it takes away and what it keeps must stand in the file, once."""
    head, *lines = diff.splitlines()
    path = package / head.removeprefix("+++ ")
    before = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
    after = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{PAGE}: {text.count(before)} places in {head} for\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_change_is_refused_where_its_place_is_not_there(tmp_path):
    (tmp_path / "a.py").write_text("one\ntwo\n")
    change(tmp_path, "+++ a.py\n one\n+between\n two")
    assert (tmp_path / "a.py").read_text() == "one\nbetween\ntwo\n"
    with pytest.raises(AssertionError, match="0 places"):
        change(tmp_path, "+++ a.py\n one\n+between\n two")


def test_page_can_be_followed(tmp_path):
    shutil.copytree(
        ROOT / "qscale", tmp_path / "qscale", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    checks, files, changes = [], 0, 0
    for block in blocks(PAGE):
        first = block.text.partition("\n")[0]
        if block.language == "diff":
            change(tmp_path, block.text)
            changes += 1
        elif first.startswith("# qscale/"):
            path = tmp_path / first.removeprefix("# ")
            assert not path.exists()
            path.write_text(block.text.partition("\n")[2], encoding="utf-8")
            files += 1
        elif block.language == "python":
            checks.append(block.text)
    assert (files, len(checks)) == (3, 7) and changes >= 9
    done = subprocess.run(
        [sys.executable, "-c", PREFACE, str(tmp_path)],
        input=json.dumps(checks),
        env={**os.environ, "QSCALE_KERNELS": "OFF", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for block, printed in zip(checks, json.loads(done.stdout), strict=True):
        agrees(block, printed)
