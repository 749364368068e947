"""Every block of Python of every page runs, and prints what its comments say."""

import shutil

import pytest
from documents.pages import PAGES, ROOT, agrees, python_of

#: Followed in a copy of the package, by test_extending.py.
ELSEWHERE = "docs/extending.md"


def test_remark_of_another_number_or_of_none_is_found():
    agrees("print(x)  # 0.13 or so\n", "0.1274\n")
    for remark in ("0.14", "much"):
        with pytest.raises(AssertionError):
            agrees(f"print(x)  # {remark}\n", "0.1274\n")


BLOCKS = [
    pytest.param(page, block, id=f"{page}-{place}")
    for page in PAGES
    if page != ELSEWHERE
    for place, block in enumerate(python_of(page))
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_python_of_the_pages_runs_and_prints_what_its_comments_say(
    page, block, capsys, tmp_path, monkeypatch
):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})
    agrees(block, capsys.readouterr().out)
