"""The script of random faults: what it prints, counts and refuses. Its trials are too long for here."""

from pathlib import Path

import chaos
import pytest
from chaos import Chaos, Result
from faults.kinds import KINDS, SkippedError

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")


def result(kind="kill-all", **fields):
    return Result(**{"number": 3, "kind": kind, "what": "SIGKILL", "sessions": 2, "seconds": 9.6, **fields})


def test_a_line_says_what_was_done_and_how_it_ended():
    assert " ".join(result().line.split()) == "3 kill-all equal; 2 sessions, 10 s; SIGKILL"
    assert " DIFFERS: a; b; c; and 2 more; 2 sessions" in result(problems=tuple("abcde")).line
    assert result(skipped="no root").line.endswith("skipped: no root")
    assert len(result(said="a" * 1000).line) < 300


def test_the_table_has_a_row_a_kind_in_their_order_with_what_was_said_most():
    lines = chaos.table(
        [
            result("full-disk", said="error: cannot write /store/one/record.json: full", set_aside=1),
            result("full-disk", said="error: cannot write /store/two/record.json: full"),
            result("full-disk", problems=("it differs",), said="another"),
            result("full-tmpfs", skipped="no root"),
            result("kill-worker", unfinished=2, missed=True),
        ]
    )
    assert lines[2:] == [
        "| `kill-worker` | 1 | 0 | 1 | 2 | 0 | 2 | nothing |",
        "| `full-disk` | 3 | 3 | 2 | 6 | 1 | 0 | error: cannot write record.json: full |",
        "| `full-tmpfs` | 0 | -- | -- | -- | -- | -- | skipped: no root |",
    ]


def test_every_kind_comes_once_before_any_comes_again_and_skips_are_told(tmp_path, monkeypatch):
    tried = []

    def skip(name, *_rest):
        tried.append((name, _rest[-1].random()))
        raise SkippedError("not here")

    monkeypatch.setattr(chaos, "try_kind", skip)
    monkeypatch.setattr(Chaos, "good", lambda *_: (type("Place", (), {"folder": tmp_path}), None))
    trials = Chaos(tmp_path, 5, list(KINDS))
    assert all(trials.trial(number).skipped == "not here" for number in range(2 * len(KINDS)))
    assert [name for name, _ in tried] == [*KINDS, *KINDS]
    assert len({drawn for _, drawn in tried}) == len(tried)
    again = tried[7]
    tried.clear()
    Chaos(tmp_path, 5, list(KINDS)).trial(7)
    assert tried == [again]


def test_unknown_faults_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        chaos.main(["--faults", "kill-all,unknown"])
    assert "unknown faults unknown; known: kill-worker" in capsys.readouterr().err


def test_every_kind_is_documented():
    assert [kind for kind in KINDS if f"`{kind}`" not in DOCUMENT] == []
