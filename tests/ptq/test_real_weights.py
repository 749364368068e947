"""Output errors on weights that others trained, where their packages are installed."""

from functools import cache

import numpy as np
import pytest
import torch
from ptq.real_weights import minilm_l3, minilm_l6, whisper_tiny_en
from torch import nn
from transformers import WhisperFeatureExtractor

from qscale.ptq.outputs import output_errors

TEXTS = [f"Sentence {i} tells of {what}." for i, what in enumerate(["rain", "a red house", "numbers"] * 6)]
SPOKEN = (
    " Thank you all for coming to the meeting today. We will talk about the weather and what it means for"
    " our work."
)
#: Relative MSE of the last hidden state by bits, probed before on other texts, a scale a row.
KNOWN_L6 = ((8, 9.2e-4), (6, 0.0117), (4, 0.175), (3, 0.87))
KNOWN_L3 = ((8, 2.3e-4), (6, 3.8e-3), (4, 0.065), (3, 0.33))


def spread(count, seed):
    """Sentences of words in another order each."""
    words = ["the", "river", "house", "old", "runs", "sees", "number", "paper", "of", "under", "light", "and"]
    draw = np.random.RandomState(seed)
    return [" ".join(draw.choice(words, 12)) for _ in range(count)]


def tokens(tokenizer, texts):
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


@cache
def sounds():
    """Log-mel features of 30 s of a tone that rises, falls and pauses."""
    time = np.arange(30 * 16000) / 16000
    phase = 2 * np.pi * np.cumsum(120 * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * time))) / 16000
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    wave = voice * np.clip(np.sin(2 * np.pi * 3.1 * time), 0, None) * 0.1
    return WhisperFeatureExtractor()(wave, sampling_rate=16000, return_tensors="pt").input_features


def transcript(tokenizer):
    """A start, no timestamps, and two sentences."""
    ids = [tokenizer.token_to_id(name) for name in ("<|startoftranscript|>", "<|notimestamps|>")]
    return torch.tensor([ids + tokenizer.encode(SPOKEN, add_special_tokens=False).ids])


@pytest.mark.parametrize(("load", "known", "layers"), [(minilm_l6, KNOWN_L6, 36), (minilm_l3, KNOWN_L3, 18)])
def test_rounding_minilm_costs_what_it_is_known_to_cost(load, known, layers):
    found = load()
    model, tokenizer = found if isinstance(found, tuple) else (found, minilm_l6()[1])
    for bits, error in known:
        errors = output_errors(model, f"w{bits}a16:channel", [tokens(tokenizer, TEXTS)])
        assert error / 3 < errors.last < 3 * error, (bits, errors.last)
        assert len(errors.layers) == layers


def test_gptq_and_awq_leave_minilm_less_error_on_other_texts():
    model, tokenizer = minilm_l6()
    calibration = [tokens(tokenizer, spread(64, seed)) for seed in (1, 2)]
    batch = tokens(tokenizer, spread(32, 3))
    plain, gptq, awq = (
        output_errors(model, "w4a16:g128", [batch], method=method, calibration=calibration).last
        for method in ("rtn", "gptq", "awq")
    )
    assert gptq < 0.7 * plain and awq < plain


@torch.no_grad()
def test_whisper_is_read_as_it_was_trained():
    """It expects English: uniform guessing costs ln 51864 = 10.9 nats a token."""
    model, tokenizer = whisper_tiny_en()
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_760_256
    ids = transcript(tokenizer)
    logits = model(input_features=sounds(), decoder_input_ids=ids).logits[:, 1:-1]
    loss = float(nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 2:].flatten()))
    assert loss < 6


@torch.no_grad()
def test_rounding_whisper_costs_its_encoder_and_decoder_more_with_fewer_bits():
    """Each two bits fewer make steps four times as wide, and squared errors about 16 times as large."""
    model, tokenizer = whisper_tiny_en()
    encoder, decoder = model.model.encoder, model.model.decoder
    heard = {"input_features": sounds()}
    said = {
        "input_ids": transcript(tokenizer),
        "encoder_hidden_states": encoder(**heard).last_hidden_state,
    }
    for part, batch, layers in ((encoder, heard, 4 * 6), (decoder, said, 4 * 10)):
        last = {}
        for bits in (8, 6, 4):
            found = output_errors(part, f"w{bits}a16:channel", [batch])
            last[bits] = found.last
            assert len(found.layers) == layers
        assert 1e-5 < last[8] < 1e-2, last
        assert 4 < last[6] / last[8] < 64 and 4 < last[4] / last[6] < 64, last
