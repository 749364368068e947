"""What a model is made of, as far as bytes and laws ask: from a ``config.json``, or a typical shape of N."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from qscale import bounded
from qscale.errors import ConfigError
from qscale.units import short_count

Role = Literal["qkv", "o", "fc1", "fc2"]

_ASPECT = 128  # width over depth of a typical shape: Llama-2 7B and 13B have it
_FFN = 2.6875  # FFN over width of a typical shape: 11008 / 4096, Llama-2 7B
_HEAD = 128
_LARGEST = 2**31
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Matrix:
    """The weight of one linear layer."""

    name: str  #: dotted, from the block down
    role: Role
    outputs: int
    inputs: int  #: the reduction axis, along which groups run


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A dense decoder: the matrices of its blocks, the rest of its parameters, its heads.

    Example:
        >>> llama = Architecture.from_config({"model_type": "llama", "hidden_size": 4096, "vocab_size": 32000,
        ...     "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32})
        >>> llama.N, llama.N_total, llama.n_linear
        (6476271616, 6738415616, 6476005376)
    """

    name: str
    blocks: int
    matrices: tuple[Matrix, ...]  #: of one block
    others: int  #: biases and norms of all blocks, and the last norm
    tables: int  #: token and position embeddings and the head
    hidden: int
    widest: int  #: of the FFN
    kv_heads: int
    head_size: int
    vocabulary: int
    is_typical: bool = False  #: made up for a size, not read from a file

    @property
    def n_linear(self) -> int:
        """Weights of the linear layers of all blocks: those that are quantized."""
        return self.blocks * sum(m.inputs * m.outputs for m in self.matrices)

    @property
    def N(self) -> int:
        """Non-embedding parameters: linear layers with biases, and norms."""
        return self.n_linear + self.others

    @property
    def N_total(self) -> int:
        """All parameters."""
        return self.N + self.tables

    def layers(self) -> Iterator[tuple[int, str, Matrix]]:
        """Block, dotted name (``layers.0.mlp.down_proj``) and matrix of every linear layer."""
        for block in range(self.blocks):
            for matrix in self.matrices:
                yield block, f"layers.{block}.{matrix.name}", matrix

    @classmethod
    def from_config(cls, source: Mapping[str, Any] | str | Path) -> Architecture:
        """Read a ``config.json`` as transformers writes it, or its content.

        Only what decides on bytes is read: activation functions, rotary scaling and dropout are not.

        Raises:
            ConfigError: It cannot be read, is of an unknown type, lacks a size, or is a mixture of
                experts (no law here is of one).
        """
        data, name = _read(source)
        kind = data.get("model_type")
        if any(isinstance(data.get(key), int) and data[key] > 1 for key in _EXPERTS):
            raise ConfigError(f"{name}: a mixture of experts; the laws here are of dense models")
        if not isinstance(kind, str) or kind not in _FAMILIES:
            near = get_close_matches(str(kind), _FAMILIES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{name}: model_type {kind!r}; {hint}known: {', '.join(sorted(_FAMILIES))}")
        try:
            made = _FAMILIES[kind](data)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        return replace(made, name=str(name))

    @classmethod
    def typical(
        cls, N: float, *, vocabulary: int = 32_000, kv_share: float = 1.0, tied: bool = False
    ) -> Architecture:
        """A shape of about N non-embedding parameters, as Llama's: 128 times as wide as deep.

        The FFN is 2.6875 times as wide as the blocks and a head 128, both rounded to what hardware likes, so
        that :attr:`N` of the result is near N and not N: predict and count with that of the result.

        Args:
            N: Non-embedding parameters.
            vocabulary: Tokens; the embedding and the head have as many rows.
            kv_share: Heads of keys and values for each head of queries, such as 0.25.
            tied: Whether the head is the embedding.

        Raises:
            ConfigError: N is below a million or no number, or a size is not positive.

        Example:
            >>> seven = Architecture.typical(6.48e9)
            >>> seven.hidden, seven.blocks, seven.N
            (4096, 32, 6476271616)
        """
        if not 1e6 <= N <= 1e15:
            raise ConfigError(f"N={N:g}: a typical shape has 1e6 to 1e15 non-embedding parameters")
        if vocabulary < 1 or not 0 < kv_share <= 1:
            raise ConfigError(f"vocabulary={vocabulary}, kv_share={kv_share:g}: positive, a share at most 1")
        per_block = 2 + 2 * kv_share + 3 * _FFN  # weights over the square of the width
        width = (N * _ASPECT / per_block) ** (1 / 3)
        step = _HEAD if width >= 4 * _HEAD else 16
        width = max(step, round(width / step) * step)
        ffn = max(step, round(_FFN * width / step) * step)
        heads = max(1, round(width / _HEAD))
        head, kv = width // heads, max(1, round(heads * kv_share))
        one = _gated_matrices(width, ffn, heads * head, kv * head)
        blocks = max(1, round(N / (sum(m.inputs * m.outputs for m in one) + 2 * width)))
        return cls(
            name=f"typical {short_count(N)}",
            blocks=blocks,
            matrices=one,
            others=blocks * 2 * width + width,
            tables=(1 if tied else 2) * vocabulary * width,
            hidden=width,
            widest=ffn,
            kv_heads=kv,
            head_size=head,
            vocabulary=vocabulary,
            is_typical=True,
        )


def _read(source: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, str(source.get("_name_or_path") or source.get("model_type"))
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        data = bounded.loads(bounded.read_text(path, bounded.MODEL_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(
            f"cannot read the model configuration {path}: {error.strerror}; give a config.json, its "
            "folder, or a size such as 7B"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: it is not JSON: {bounded.one_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: it is no object; give the config.json of a model")
    return data, path.parent.name or str(path)


def _size(data: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = data.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise ConfigError(f"{key}={value!r} is not a whole positive number")
    return value


def _flag(data: Mapping[str, Any], key: str, default: bool) -> bool:
    value = data.get(key, default)
    if type(value) is not bool:
        raise ConfigError(f"{key}={value!r} is not true or false")
    return value


def _gated_matrices(hidden: int, ffn: int, queries: int, kv: int) -> tuple[Matrix, ...]:
    return (
        Matrix("self_attn.q_proj", "qkv", queries, hidden),
        Matrix("self_attn.k_proj", "qkv", kv, hidden),
        Matrix("self_attn.v_proj", "qkv", kv, hidden),
        Matrix("self_attn.o_proj", "o", hidden, queries),
        Matrix("mlp.gate_proj", "fc1", ffn, hidden),
        Matrix("mlp.up_proj", "fc1", ffn, hidden),
        Matrix("mlp.down_proj", "fc2", hidden, ffn),
    )


def _gated(
    data: Mapping[str, Any],
    *,
    norms: int = 2,
    head_norms: Literal["none", "per head", "all heads"] = "none",
    biases: Literal["none", "qkv", "flag"] = "flag",
    fused: bool = False,
    tied: bool = False,
) -> Architecture:
    """Blocks with a gated FFN of three matrices and grouped queries: Llama and its kin."""
    hidden, ffn = _size(data, "hidden_size"), _size(data, "intermediate_size")
    heads, blocks = _size(data, "num_attention_heads"), _size(data, "num_hidden_layers")
    kv = _size(data, "num_key_value_heads", heads)
    head, vocabulary = _size(data, "head_dim", hidden // heads), _size(data, "vocab_size")
    matrices = _gated_matrices(hidden, ffn, heads * head, kv * head)
    if fused:
        matrices = (
            Matrix("self_attn.qkv_proj", "qkv", (heads + 2 * kv) * head, hidden),
            matrices[3],
            Matrix("mlp.gate_up_proj", "fc1", 2 * ffn, hidden),
            matrices[6],
        )
    with_bias: tuple[Role, ...] = ("qkv",) if biases == "qkv" else ()
    if biases == "flag":
        with_bias += ("qkv", "o") if _flag(data, "attention_bias", False) else ()
        with_bias += ("fc1", "fc2") if _flag(data, "mlp_bias", False) else ()
    bias = sum(m.outputs for m in matrices if m.role in with_bias)
    of_heads = {"none": 0, "per head": 2 * head, "all heads": (heads + kv) * head}[head_norms]
    tables = 1 if _flag(data, "tie_word_embeddings", tied) else 2
    return Architecture(
        name="",
        blocks=blocks,
        matrices=matrices,
        others=blocks * (norms * hidden + bias + of_heads) + hidden,
        tables=tables * vocabulary * hidden,
        hidden=hidden,
        widest=ffn,
        kv_heads=kv,
        head_size=head,
        vocabulary=vocabulary,
    )


def _plain(
    data: Mapping[str, Any],
    keys: Mapping[str, str],
    names: tuple[str, str, str, str, str, str],
    *,
    tied: bool,
    positions: int,
    norms: int = 2,
) -> Architecture:
    """Blocks with an FFN of two matrices, biases and layer norms, and as many heads everywhere."""
    hidden, heads = _size(data, keys["hidden"]), _size(data, keys["heads"])
    blocks, vocabulary = _size(data, keys["blocks"]), _size(data, "vocab_size")
    ffn = _size(data, keys["ffn"], 4 * hidden)
    q, k, v, o, fc1, fc2 = names
    attention: tuple[Matrix, ...] = (
        Matrix(q, "qkv", hidden, hidden),
        Matrix(k, "qkv", hidden, hidden),
        Matrix(v, "qkv", hidden, hidden),
    )
    if q == k:
        attention = (Matrix(q, "qkv", 3 * hidden, hidden),)
    matrices = (
        *attention,
        Matrix(o, "o", hidden, hidden),
        Matrix(fc1, "fc1", ffn, hidden),
        Matrix(fc2, "fc2", hidden, ffn),
    )
    tables = 1 if _flag(data, "tie_word_embeddings", tied) else 2
    return Architecture(
        name="",
        blocks=blocks,
        matrices=matrices,
        others=blocks * (2 * norms * hidden + sum(m.outputs for m in matrices)) + 2 * hidden,
        tables=(tables * vocabulary + positions) * hidden,
        hidden=hidden,
        widest=ffn,
        kv_heads=heads,
        head_size=hidden // heads,
        vocabulary=vocabulary,
    )


def _neox(data: Mapping[str, Any]) -> Architecture:
    keys = {"hidden": "hidden_size", "heads": "num_attention_heads", "blocks": "num_hidden_layers"}
    fused = "attention.query_key_value"
    names = (fused, fused, fused, "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return _plain(data, {**keys, "ffn": "intermediate_size"}, names, tied=False, positions=0)


def _opt(data: Mapping[str, Any]) -> Architecture:
    width = data.get("word_embed_proj_dim")
    if width is not None and width != data.get("hidden_size"):
        raise ConfigError(f"word_embed_proj_dim={width}: embeddings here are as wide as the blocks")
    keys = {"hidden": "hidden_size", "heads": "num_attention_heads", "blocks": "num_hidden_layers"}
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")
    positions = _size(data, "max_position_embeddings") + 2  # two rows more than positions
    return _plain(data, {**keys, "ffn": "ffn_dim"}, names, tied=True, positions=positions)


def _gpt2(data: Mapping[str, Any]) -> Architecture:
    keys = {"hidden": "n_embd", "heads": "n_head", "blocks": "n_layer", "ffn": "n_inner"}
    names = ("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return _plain(data, keys, names, tied=True, positions=_size(data, "n_positions"))


#: By ``model_type``; ``tests/planning/test_architecture.py`` counts each against the real model.
_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "llama": _gated,
    "mistral": lambda data: _gated(data, biases="none"),
    "qwen2": lambda data: _gated(data, biases="qkv"),
    "qwen3": lambda data: _gated(data, head_norms="per head"),
    "olmo2": lambda data: _gated(data, head_norms="all heads"),
    "gemma2": lambda data: _gated(data, norms=4, tied=True),
    "phi3": lambda data: _gated(data, biases="none", fused=True),
    "gpt_neox": _neox,
    "opt": _opt,
    "gpt2": _gpt2,
}
