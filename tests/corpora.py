"""Small data directories and experiments for the tests of all folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from audiossl import registry
from audiossl.config import to_table, write_toml
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.interop.checkpoint import save_checkpoint


def noises(lengths, seed=0):
    """White noise of deviation 0.1: a waveform of each number of samples, drawn one after another."""
    rng = np.random.default_rng(seed)
    return [0.1 * rng.standard_normal(length) for length in lengths]


def write_corpus(folder, waveforms, *, speakers=("s",), columns=None, phones=(None,), rate=16_000, out=None):
    """Write each waveform as `folder/0.wav` ... and, of utterances SPEAKER-0 ..., the data directory `out` (`folder/data`), which is returned.

    speakers, phones and each column's values are taken in turn, from the first again where there are too few.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, waveform in enumerate(waveforms):
        path, speaker = folder / f"{number}.wav", speakers[number % len(speakers)]
        write_audio(path, waveform, rate)
        own = {column: values[number % len(values)] for column, values in (columns or {}).items()}
        utterance, marks = f"{speaker}-{number}", phones[number % len(phones)]
        rows.append(CorpusUtterance(utterance, utterance, path, speaker, columns=own, phones=marks))
    out = out or folder / "data"
    write_data_dir(rows, out)
    return out


def tenths(phones):
    """Phones of a tenth of a second each, as an utterance has them."""
    return [(0.1 * place, 0.1, phone) for place, phone in enumerate(phones)]


def write_encoder(folder, name="wav2vec2", *, seed=0, change=None, tables=None, **options):
    """Write an experiment of one checkpoint, a tiny encoder with random weights; returns the encoder.

    options: of its configuration, where they are others than the tiny one's. change: called with it before it is written.
    tables: further ones of config.toml.
    """
    cls = registry.get("encoders", name)
    config = replace(cls.Config.tiny(), **options)
    torch.manual_seed(seed)
    encoder = cls(config)
    if hasattr(encoder, "calibrate"):
        encoder.calibrate([(0.1 * torch.randn(2, 8000), torch.tensor([8000, 7000]))])
    if change is not None:
        change(encoder)
    save_checkpoint(folder, 1, {f"encoder.{key}": value for key, value in encoder.state_dict().items()}, {}, keep=1)
    write_toml(folder / "config.toml", {"encoder": {"name": name, **to_table(config)}, **(tables or {})})
    return encoder
