"""What adapters share: the layers that they are put into, and the tensors that a checkpoint must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.nn.ssl_encoder import SSLEncoder


def top_layers(encoder: SSLEncoder, count: int) -> list[nn.Module]:
    """Return the `count` layers nearest to the output, lowest first; 0 is all of them. ValueError where there are fewer."""
    layers = list(encoder.transformer.layers)
    if not 0 <= count <= len(layers):
        raise ValueError(
            f"adapter.num_top_layers: {count} of the encoder's {len(layers)} layers; give 0 to {len(layers)}"
        )
    return layers[-(count or len(layers)) :]


def trained_state(encoder: SSLEncoder) -> dict[str, Tensor]:
    """Return what training changes, by name: parameters that learn, and the running statistics of batch norms, which move without a gradient."""
    state = {name: tensor.detach() for name, tensor in encoder.named_parameters() if tensor.requires_grad}
    for name, module in encoder.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001 - the base of all batch norms
            state |= {f"{name}.{key}": tensor for key, tensor in module.named_buffers(recurse=False)}
    return state
