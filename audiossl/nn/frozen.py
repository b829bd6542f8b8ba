"""Which parts of a partly frozen encoder are the functions that were pretrained, and so must not see dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from audiossl.nn.ssl_encoder import SSLEncoder


def frozen_parts(encoder: SSLEncoder) -> list[nn.Module]:
    """Parts below the first trained one: the whole encoder; its frontend, if it has one; or all but the layers from the first trained one on."""
    if not _trains(encoder):
        return [encoder]
    layers = encoder.transformer.layers
    frontend = [module for name, module in encoder.named_children() if name == "frontend"]
    if any(map(_trains, frontend)):
        return []
    above = {id(p) for p in layers.parameters()}
    if encoder.transformer.pre_norm:  # then the norm follows the last layer
        above |= {id(p) for p in encoder.transformer.norm.parameters()}
    between = {id(p) for p in encoder.parameters()} - above
    if any(p.requires_grad for p in encoder.parameters() if id(p) in between):
        return frontend
    first = next((index for index, layer in enumerate(layers) if _trains(layer)), len(layers))
    below = [child for child in (*encoder.children(), *encoder.transformer.children()) if not _trains(child)]
    return [*below, *layers[:first]]


def frozen_batch_norms(encoder: nn.Module) -> list[nn.Module]:
    """Batch norms that do not train: in training mode their running statistics would move all the same."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [module for module in encoder.modules() if isinstance(module, _BatchNorm) and not _trains(module)]


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
