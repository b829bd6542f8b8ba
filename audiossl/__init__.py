"""audiossl: self-supervised learning on speech and audio, from raw recordings to scored tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.nn.ssl_encoder import SSLEncoder

__version__ = "0.1.0"


def load(source: str | Path) -> SSLEncoder:
    """Load a trained encoder, in eval mode, from an experiment folder, one of its checkpoints, or the name of either.

    A checkpoint of transformers, fairseq, torchaudio or s3prl is read as it is, without these packages; `s3prl:NAME` is an upstream of s3prl.
    """
    from audiossl.interop.encoder import load_encoder

    return load_encoder(source)
