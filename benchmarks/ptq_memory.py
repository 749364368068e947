"""Peak memory and time of a pass over a model of about 1 B parameters that is read one block at a time.

    OMP_NUM_THREADS=2 python benchmarks/ptq_memory.py --threads 2

Makes a model of the shape of TinyLlama (1.1 B parameters, bfloat16, one shard a block) with random weights
in a temporary folder, then quantizes it in a process of its own. Weights are drawn with channels of many
magnitudes; losses of such a model mean nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make(folder: Path, blocks: int, width: int) -> int:
    """Write the model, a block at a time; returns its number of parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    inner, vocabulary, heads = width * 11 // 4, 32000, width // 64
    few = max(1, heads // 8)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=few,
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int, columns: int) -> torch.Tensor:
        scale = torch.exp(0.5 * torch.randn(columns, generator=generator)) / columns**0.5
        return (torch.randn(rows, columns, generator=generator) * scale).bfloat16()

    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (64 * few, width),
        "self_attn.v_proj": (64 * few, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    table, total = {}, 0
    for number in range(blocks + 1):
        if number == blocks:
            tensors = {
                "model.embed_tokens.weight": draw(vocabulary, width),
                "lm_head.weight": draw(vocabulary, width),
                "model.norm.weight": torch.ones(width).bfloat16(),
            }
        else:
            prefix = f"model.layers.{number}."
            tensors = {f"{prefix}{name}.weight": draw(*shape) for name, shape in shapes.items()}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}{norm}.weight"] = torch.ones(width).bfloat16()
        name = f"model-{number + 1:05}-of-{blocks + 1:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        table |= dict.fromkeys(tensors, name)
        total += sum(x.numel() for x in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    config.save_pretrained(folder)
    return total


def quantize(arguments: argparse.Namespace) -> None:
    """The measured process."""
    import numpy as np
    import torch

    from qscale.formats import Recipe
    from qscale.ptq import saving
    from qscale.ptq.methods import Method
    from qscale.ptq.partial import Partial
    from qscale.ptq.run import pass_identity, quantize_blocks
    from qscale.ptq.sources import Folder

    torch.set_num_threads(arguments.threads)
    loaded = _peak()
    start = time.perf_counter()
    parts: dict[str, float] = {}

    def done(part: str) -> None:
        nonlocal start
        now = time.perf_counter()
        parts[part] = parts.get(part, 0.0) + now - start
        start = now

    tokens = np.random.RandomState(0).randint(0, 32000, (arguments.windows, arguments.length))
    held_out = np.random.RandomState(1).randint(0, 32000, (arguments.windows, arguments.length + 1))
    source = Folder(arguments.model)
    done("outer parts")

    def show(event: dict) -> None:
        if event["event"] == "block":
            done("losses before" if event["block"] == 0 else "blocks")
            print(f"block {event['block'] + 1} of {event['blocks']}, peak {_peak():.2f} GB", flush=True)

    out = arguments.model / "quantized"
    recipe, method = Recipe.parse(arguments.recipe), Method.parse(arguments.method)
    identity = pass_identity(source, recipe, method, tokens, held_out)
    done("hashes")
    with Partial(out, identity) as partial:
        report = quantize_blocks(
            source, recipe, method, tokens, emit=show, held_out=held_out, partial=partial
        )
        done("blocks")
        saving.publish(partial, source.model, {}, (), arguments.layout)
        done("folder")
    print(
        json.dumps(
            {
                "peak_gb": round(_peak(), 2),
                "after_imports_gb": round(loaded, 2),
                "bits_per_weight": report.bits_per_weight,
                "relmse": report.relmse,
                "relmse_nearest": report.relmse_nearest,
                "seconds": {name: round(value, 1) for name, value in parts.items()},
            }
        )
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Make the model, then quantize it in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--blocks", type=int, default=22)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--recipe", default="w=int4:g128")
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model is not None:
        quantize(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        total = make(Path(folder), arguments.blocks, arguments.width)
        print(f"{total / 1e9:.2f} B parameters written in {time.perf_counter() - start:.0f} s", flush=True)
        command = [sys.executable, __file__, *sys.argv[1:], "--model", folder]
        raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
