"""One thread: the same bits everywhere."""

import pytest
import torch

import qscale.ptq.pretrained  # noqa: F401 - from_pretrained reads what is saved


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
