"""The residual stream of a model in another basis, folded into the weights around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError, SpecError
from qscale.formats.rotations import Rotation
from qscale.kernels import hadamard
from qscale.kernels.hadamard_matrices import decompose
from qscale.ptq.blocks import find_blocks
from qscale.ptq.folding import is_norm
from qscale.quantizers import signs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The parts of a block that touch the residual stream, by their names from the block down."""

    norms: Mapping[str, tuple[str, ...]]  #: each norm, and the layers that take its output
    values: str  #: the layer that makes values
    o: str  #: writes to the stream, as ``fc2`` does
    fc2: str
    fused: bool = False  #: query, key and value of a head lie together in one layer
    others: tuple[str, ...] = field(default=())  #: what may be there too and does not touch the stream

    def names(self) -> Iterator[str]:
        """Of every part."""
        for norm, readers in self.norms.items():
            yield norm
            yield from readers
        yield from (self.o, self.fc2)


#: Those of the families of ``qscale.models.families``; models of the same names are served with them.
LAYOUTS = (
    Layout(
        norms={
            "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        },
        values="self_attn.v_proj",
        o="self_attn.o_proj",
        fc2="mlp.down_proj",
        others=("self_attn.q_norm", "self_attn.k_norm"),
    ),
    Layout(
        norms={
            "input_layernorm": ("attention.query_key_value",),
            "post_attention_layernorm": ("mlp.dense_h_to_4h",),
        },
        values="attention.query_key_value",
        o="attention.dense",
        fc2="mlp.dense_4h_to_h",
        fused=True,
    ),
    Layout(
        norms={
            "self_attn_layer_norm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "final_layer_norm": ("fc1",),
        },
        values="self_attn.v_proj",
        o="self_attn.out_proj",
        fc2="fc2",
    ),
)


def layout_of(name: str, block: nn.Module) -> Layout:
    """The layout of a block.

    Raises:
        ConfigError: Its parts have other names, there are more of them, or norms follow the layers.
    """
    found = {inner for inner, module in block.named_modules() if _has_parameters(module)}
    for layout in LAYOUTS:
        wanted = set(layout.names())
        if wanted <= found and found <= wanted | set(layout.others):
            break
    else:
        raise ConfigError(
            f"block {name} ({type(block).__name__}) has parts with other names than those whose residual "
            "stream can be rotated (llama, qwen3, gpt_neox, opt); rot=hadamard:128 in the recipe rotates the "
            "inputs of any linear layer"
        )
    if not getattr(block, "do_layer_norm_before", True):
        raise ConfigError(
            f"block {name} has its norms behind its layers: what they do to the residual stream cannot be "
            "rotated; rot=hadamard:128 in the recipe rotates the inputs of any linear layer"
        )
    return layout


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """A rotation of vectors: a Hadamard transform with random signs, then perhaps a reflection.

    float64 is rotated in float64, by a product with the matrix; all else by ``qscale.hadamard`` in float32.
    """

    block: int
    signs: Tensor
    mirror: Tensor | None = None  #: float64, of length 1

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` rotated along its last axis, float64 or float32."""
        if x.dtype == torch.float64:
            matrix = _matrix(self.block).to(x.device)
            blocks = (x * self.signs.to(x)).unflatten(-1, (-1, self.block))  # type: ignore[no-untyped-call]
            y: Tensor = (blocks @ matrix).flatten(-2)
        else:
            y = hadamard(x.float(), self.block, self.signs)
        if self.mirror is None:
            return y
        mirror = self.mirror.to(y)
        return y - 2 * (y @ mirror)[..., None] * mirror


@lru_cache(maxsize=2)
def _matrix(block: int) -> Tensor:
    """``H^T``, float64."""
    return hadamard(torch.eye(block), block).sign().double() / math.sqrt(block)


def turn_of(width: int, name: str, *, keep_mean: bool = False) -> Turn:
    """The rotation of a width: a function of its name.

    Widths without a transform are rotated in blocks, as those of a recipe's rotation.

    Args:
        width: Of the vectors.
        name: Gives the signs.
        keep_mean: Add a reflection after which the vector of ones is where it was. Subtracting the mean and
            rotating then commute.

    Raises:
        SpecError: The width is odd.
    """
    block = block_for(width)
    turn = Turn(block=block, signs=signs_of(name, width))
    if not keep_mean:
        return turn
    # sums of signs are whole numbers: exact, without a matrix
    sums = (hadamard(torch.ones(width), block, turn.signs).double() * math.sqrt(block)).round()
    moved = sums / math.sqrt(block * width) - 1 / math.sqrt(width)
    length = float(moved.norm())
    return turn if length < 1e-9 else Turn(block=block, signs=turn.signs, mirror=moved / length)


def block_for(width: int) -> int:
    """The whole width where there is a transform, else the largest power of two that divides it.

    Raises:
        SpecError: The width is odd.
    """
    return Rotation(None, True).block_for(width, lambda size: decompose(size) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormForm:
    """What a norm computes: ``(x - mean) / rms * (weight + offset) + bias``, the mean only where centred."""

    offset: int
    centred: bool


@torch.no_grad()
def form_of(name: str, norm: nn.Module) -> NormForm:
    """Find out what a norm computes, from a copy of it with other gains.

    Raises:
        ConfigError: Something else.
    """
    trial = copy.deepcopy(norm).to_empty(device="cpu").double()
    width = len(trial.weight)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    x = 100 * torch.randn(4, width, generator=generator, dtype=torch.float64) + 30
    gain = torch.linspace(0.5, 1.5, width, dtype=torch.float64)
    trial.weight.copy_(gain)  # type: ignore[operator]
    bias = torch.zeros(width, dtype=torch.float64)
    if getattr(trial, "bias", None) is not None:
        trial.bias.copy_(bias := gain.flip(0))  # type: ignore[operator]
    y = trial(x)
    for centred in (False, True):
        moved = x - x.mean(-1, keepdim=True) if centred else x
        unit = moved / moved.square().mean(-1, keepdim=True).sqrt()
        for offset in (0, 1):
            if torch.allclose(y.double(), unit * (gain + offset) + bias, rtol=1e-3, atol=1e-3):
                return NormForm(offset=offset, centred=centred)
    raise ConfigError(
        f"norm {name} ({type(norm).__name__}) is neither an RMS norm nor a layer norm: its gain cannot be "
        "taken out of it"
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """The residual stream outside of the blocks."""

    tables: Mapping[str, nn.Embedding]  #: what is added up before the first block
    norm_name: str
    norm: nn.Module
    head: nn.Linear
    width: int
    form: NormForm  #: of the last norm, and so of all


def stream_of(model: nn.Module) -> Stream:
    """The residual stream of a causal language model.

    Raises:
        ConfigError: There is something in it besides embeddings, blocks, one norm and a head.
    """
    blocks = find_blocks(model)
    outside = {
        name: module
        for name, module in model.named_modules()
        if _has_parameters(module) and not any(name == b or name.startswith(f"{b}.") for b in blocks)
    }
    head = getattr(model, "get_output_embeddings", lambda: None)()
    tables = {name: m for name, m in outside.items() if isinstance(m, nn.Embedding)}
    norms = {name: m for name, m in outside.items() if is_norm(m)}
    rest = [n for n, m in outside.items() if n not in tables and n not in norms and m is not head]
    widths = {m.weight.shape[-1] for m in (*tables.values(), *norms.values())}
    if rest or len(norms) != 1 or len(widths) != 1 or not isinstance(head, nn.Linear):
        named = ", ".join(rest) or f"{len(norms)} norms and widths {sorted(widths)}"
        raise ConfigError(
            f"the residual stream of {type(model).__name__} has more in it than embeddings, blocks, a norm "
            f"and a head ({named}): it cannot be rotated; rot=hadamard:128 in the recipe rotates the inputs "
            "of any linear layer"
        )
    ((name, norm),) = norms.items()
    return Stream(
        tables=tables, norm_name=name, norm=norm, head=head, width=widths.pop(), form=form_of(name, norm)
    )


def untie(model: nn.Module, stream: Stream) -> None:
    """Give the head weights of its own, in the config too, so that a saved model is loaded so."""
    if any(table.weight is stream.head.weight for table in stream.tables.values()):
        stream.head.weight = nn.Parameter(stream.head.weight.detach().clone())
    config = getattr(model, "config", None)
    if config is not None:
        config.tie_word_embeddings = False
        if hasattr(model, "all_tied_weights_keys"):
            setattr(model, "all_tied_weights_keys", {})  # noqa: B010 - any object that has it


def check_gain(name: str, norm: nn.Module, form: NormForm, readers: Sequence[nn.Linear]) -> None:
    """Make sure that a norm's bias has somewhere to go; a norm without storage is not looked at.

    Raises:
        ConfigError: It would have to be divided by a gain of 0.
    """
    bias, gain = getattr(norm, "bias", None), norm.weight
    assert isinstance(gain, Tensor)
    if bias is None or gain.is_meta or all(reader.bias is not None for reader in readers):
        return
    lost = (gain + form.offset == 0) & (bias != 0)
    if bool(lost.any()):
        raise ConfigError(
            f"norm {name}: in channel {int(lost.nonzero()[0])} its gain is 0 and its bias is not, and a "
            "layer behind it has no bias: it cannot be rotated"
        )


def take_gain(name: str, norm: nn.Module, form: NormForm, readers: Sequence[nn.Linear], turn: Turn) -> None:
    """Move a norm's gain, and its bias where layers have one, into the layers that read it; rotate those.

    A bias that the readers cannot hold stays in the norm, divided by the gain and rotated.

    Raises:
        ConfigError: As :func:`check_gain`.
    """
    check_gain(name, norm, form, readers)
    assert isinstance(norm.weight, Tensor)
    gain, bias = _wide(norm.weight) + form.offset, getattr(norm, "bias", None)
    moves = bias is not None and all(reader.bias is not None for reader in readers)
    if bias is not None and not moves:
        bias.copy_(turn(_wide(bias) / torch.where(gain == 0, torch.ones_like(gain), gain)))
    for reader in readers:
        weight = _wide(reader.weight)
        if moves:
            assert bias is not None
            reader.bias.copy_(_wide(reader.bias) + weight @ _wide(bias))
        reader.weight.copy_(turn(weight * gain))
    if moves:
        assert bias is not None
        bias.zero_()
    norm.weight.fill_(1 - form.offset)


def turn_output(layer: nn.Linear, turn: Callable[[Tensor], Tensor]) -> None:
    """Rotate what a layer writes."""
    layer.weight.copy_(turn(_wide(layer.weight).t().contiguous()).t())
    if layer.bias is not None:
        layer.bias.copy_(turn(_wide(layer.bias)))


def turn_input(layer: nn.Linear | nn.Embedding, turn: Callable[[Tensor], Tensor]) -> None:
    """Rotate the rows of a weight."""
    layer.weight.copy_(turn(_wide(layer.weight)))


def turn_values(layer: nn.Linear, o: nn.Linear, head: int, turn: Turn, *, fused: bool) -> None:
    """Rotate the values of each head, and turn them back in ``o``, which takes what attention makes of them.

    Attention adds values up with weights that do not depend on them, so that nothing changes, whether heads
    share values or not.
    """
    parts = 3 if fused else 1  # values are the last

    def of_heads(x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, parts, head)).clone()  # type: ignore[no-untyped-call]
        heads[..., -1, :] = turn(heads[..., -1, :].contiguous())
        return heads.flatten(-3)

    def of_o(x: Tensor) -> Tensor:
        return turn(x.unflatten(-1, (-1, head))).flatten(-2)  # type: ignore[no-untyped-call]

    turn_output(layer, of_heads)
    turn_input(o, of_o)


def head_of(name: str, attention: nn.Module, o: nn.Linear) -> int:
    """Elements of a head.

    Raises:
        ConfigError: The attention module does not say, or it does not divide the input of its last layer.
    """
    for attribute in ("head_dim", "head_size"):
        size = getattr(attention, attribute, None)
        if isinstance(size, int) and size > 0 and o.in_features % size == 0:
            return size
    raise ConfigError(f"{name} does not say how long its heads are: use quarot(values=false)")


def even_block(width: int) -> int | None:
    """As :func:`block_for`; None for an odd width, which stays as it is."""
    try:
        return block_for(width)
    except SpecError:
        return None


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
