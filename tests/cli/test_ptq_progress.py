"""Progress of a pass, as lines and as a bar."""

import io

import pytest

from qscale.cli._ptq_progress import BlockBar, BlockLines

EVENTS = [
    {"event": "resumed", "blocks_done": 1, "blocks": 3},
    {"event": "block", "block": 1, "blocks": 3},
    {"event": "layer", "block": 1, "layer": "q", "notes": ["odd [bold]"]},
    {"event": "block", "block": 2, "blocks": 3},
    {"event": "cache", "block": 2, "attention": "a", "notes": []},
]


@pytest.mark.parametrize("kind", [BlockLines, BlockBar])
def test_every_event_is_taken(kind):
    out = io.StringIO()
    with kind(out) as show:
        for event in EVENTS:
            show(event)
    assert "going on after block 1 of 3" in out.getvalue()
    assert "note      q: odd [bold]" in out.getvalue()
    assert ("block 2 of 3\n" in out.getvalue()) == (kind is BlockLines)
    if kind is BlockBar:
        assert show.layers == 1 and show.left != "?"
