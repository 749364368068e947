"""Importing this has ``from_pretrained`` of transformers read folders of layout ``qscale``.


A module of its own: it loads every quantizer that transformers has.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qscale.errors import ConfigError
from qscale.ptq.layouts.own import VERSION
from qscale.ptq.stored import install


@register_quantization_config("qscale")
class QScaleConfig(QuantizationConfigMixin):
    """``quantization_config`` of layout ``qscale``.

    Args:
        inputs: Input quantizers, and the layers that have each in common.
        biases: Layers with a bias.
        attentions: The spec of keys and values of each attention module that quantizes them.
        version: Of this description.

    Raises:
        ConfigError: Another version.
    """

    def __init__(
        self,
        inputs: list[dict[str, Any]] | None = None,
        biases: list[str] | None = None,
        attentions: dict[str, str] | None = None,
        version: int = VERSION,
        **_: Any,
    ) -> None:
        if version != VERSION:
            raise ConfigError(
                f"quantization_config of version {version}, where this qscale reads {VERSION}: update qscale"
            )
        self.quant_method: Any = "qscale"
        self.version = version
        self.inputs, self.biases, self.attentions = inputs or [], biases or [], attentions or {}


@register_quantizer("qscale")
class QScaleQuantizer(HfQuantizer):
    """Puts the quantized layers into the model before its weights are loaded."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        config: Any = self.quantization_config
        install(model, config.inputs, config.biases, config.attentions)
        return model

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensors that layers have in common, once for each of them: no file has two names for one."""
        state = model.state_dict()
        return {key: x.clone() if ".input_quantizer." in key else x for key, x in state.items()}, {}

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False
