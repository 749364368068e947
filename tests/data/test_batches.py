"""The order of sequences: a permutation per epoch, fixed by the seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qscale.data.batches import TrainingBatches, Windows, evaluation_sequences
from qscale.errors import ConfigError


def _stream(length):
    return np.arange(length, dtype=np.int64)  # the value is the position


@given(
    windows=st.integers(1, 40), context=st.integers(1, 9), extra=st.integers(0, 8), seed=st.integers(0, 99)
)
def test_one_epoch_takes_every_window_once(windows, context, extra, seed):
    stream = _stream(windows * context + 1 + min(extra, context - 1))
    batches = TrainingBatches(stream, context, seed)
    rows = np.concatenate([batches.batch(step, 1) for step in range(windows)])
    assert sorted(rows[:, 0]) == [i * context for i in range(windows)]
    assert (np.diff(rows, axis=1) == 1).all()


@given(size=st.integers(1, 13), seed=st.integers(0, 99))
def test_order_does_not_depend_on_the_batch_size(size, seed):
    stream = _stream(7 * 4 + 1)
    single = TrainingBatches(stream, 4, seed)
    whole = TrainingBatches(stream, 4, seed)
    steps = 3
    one_by_one = np.concatenate([single.batch(i, 1) for i in range(steps * size)])
    assert np.array_equal(np.concatenate([whole.batch(i, size) for i in range(steps)]), one_by_one)


def test_order_differs_by_seed_and_by_epoch():
    orders = [
        tuple(TrainingBatches(_stream(401), 4, seed).batch(epoch, 100)[:, 0])
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_order_is_pinned_so_that_old_runs_can_be_repeated():
    assert TrainingBatches(_stream(41), 4, seed=7).batch(0, 10)[:, 0].tolist() == [
        32,
        16,
        12,
        24,
        8,
        4,
        0,
        20,
        36,
        28,
    ]


def test_windows_of_a_stream_shorter_than_one_window_are_none():
    assert Windows(_stream(4), 4).count == 0


def test_evaluation_sequences_are_distinct_and_as_many_as_there_are():
    assert evaluation_sequences(_stream(41), 4, 100).shape == (10, 5)
    few = evaluation_sequences(_stream(4001), 4, 50)
    assert len(set(few[:, 0])) == 50
    assert few[:, 0].max() > 2000, "drawn over the whole stream"


@pytest.mark.parametrize("step", [0, 3])
def test_targets_are_the_next_tokens(step):
    rows = TrainingBatches(_stream(401), 8, 0).batch(step, 4)
    assert np.array_equal(rows[:, 1:], rows[:, :-1] + 1)


@given(ranks=st.integers(1, 5), share=st.integers(1, 4), step=st.integers(0, 6), seed=st.integers(0, 9))
def test_ranks_share_a_batch_sequence_by_sequence(ranks, share, step, seed):
    batches = TrainingBatches(_stream(7 * 4 + 1), 4, seed)
    whole = batches.batch(step, ranks * share)
    for rank in range(ranks):
        part = TrainingBatches(_stream(7 * 4 + 1), 4, seed).batch(step, ranks * share, rank=rank, ranks=ranks)
        assert np.array_equal(part, whole[rank::ranks])


def test_ranks_that_do_not_divide_a_batch_are_refused():
    with pytest.raises(ConfigError, match="8 sequences cannot be shared evenly by 3 ranks"):
        TrainingBatches(_stream(41), 4, 0).batch(0, 8, ranks=3)


@given(numbers=st.lists(st.integers(0, 500), max_size=9), seed=st.integers(0, 9))
def test_a_sequence_is_a_function_of_seed_and_number(numbers, seed):
    rows = TrainingBatches(_stream(41), 4, seed).sequences(np.array(numbers, dtype=np.int64))
    for row, number in zip(rows, numbers, strict=True):
        assert np.array_equal(TrainingBatches(_stream(41), 4, seed).batch(number, 1)[0], row)
