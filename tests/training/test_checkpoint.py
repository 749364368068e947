"""The last weights of a run: read to the bit, or moved aside."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qscale.errors import StoreError
from qscale.training import checkpoint


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).to(torch.bfloat16))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_weights_come_back_to_the_bit(model, tmp_path):
    checkpoint.save_weights(tmp_path / "final", model)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    checkpoint.load_weights(tmp_path / "final", model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name])


@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_damaged_weights_are_moved_aside_each_time(model, tmp_path, damage):
    for number in (1, 2):
        checkpoint.save_weights(tmp_path, model)
        path = tmp_path / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data if damage == "bit" else data[:-1])
        with pytest.raises(StoreError, match="run again to train the run that left them anew"):
            checkpoint.load_weights(tmp_path, model)
        assert names(tmp_path) == [f"model.safetensors.corrupt-{n}" for n in range(1, number + 1)]


def test_weights_without_a_hash_are_read(model, tmp_path):
    checkpoint.save_weights(tmp_path, model)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path), path)
    checkpoint.load_weights(tmp_path, model)


def test_weights_of_another_model_stay_where_they_are(model, tmp_path):
    checkpoint.save_weights(tmp_path, model)
    with pytest.raises(StoreError, match="those of another model"):
        checkpoint.load_weights(tmp_path, nn.Sequential(nn.Linear(3, 5)))
    assert names(tmp_path) == ["model.safetensors"]


def test_missing_weights_are_an_error_that_says_what_to_do(model, tmp_path):
    with pytest.raises(StoreError, match=r"cannot be read: No such file.*run again"):
        checkpoint.load_weights(tmp_path, model)
