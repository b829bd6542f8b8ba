"""A data directory whose recordings are augmented once and for all: a noisy test set, or copies to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.data import kaldi
from audiossl.data.audio import write_audio
from audiossl.data.augment import Augmenter
from audiossl.data.edit import refuse_shards
from audiossl.data.manifest import Manifest
from audiossl.data.parts import write_parts
from audiossl.data.threads import in_threads
from audiossl.data.turns import UTT2TURNS
from audiossl.data.writer import new_directory

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.data.augment import AugmentConfig

_AUDIO = "audio"


def augment_directory(
    source: Path, out: Path, config: AugmentConfig, *, seed: int, sample_rate: int, allow_commands: bool = False
) -> list[str]:
    """Write the utterances of `source`, augmented, as the data directory `out` with the same ids; returns what was left out, a line each.

    Every utterance becomes a 16-bit mono FLAC at `sample_rate` Hz under `out/audio`; what is done to it depends on `seed` and on its number alone. One
    that would pass full scale is made quieter. All tables of utterances and speakers are carried over; where the speed changes, `utt2dur` is made anew and
    phones, turns and units, whose times would be wrong, stay behind. ValueError if `out` exists or a recording cannot be used.
    """
    refuse_shards(source)
    manifest = Manifest.open(source, allow_commands=allow_commands)
    augmenter = Augmenter(config, manifest)
    names = [name for name in kaldi.table_names(source) if kaldi.keyed_by(name) != "recording"]
    remade = {kaldi.SEGMENTS, kaldi.UTT2DUR}
    left = [] if config.keeps_time else [name for name in names if name.startswith(kaldi.UNITS) or name == UTT2TURNS]

    if not any(config.probability(step) for step in config.order):
        raise ValueError(
            f"{out}: nothing would be augmented; give a probability, such as --augment.noise_probability 1"
        )

    with new_directory(out) as folder:
        (folder / _AUDIO).mkdir()

        def write(index: int) -> str:
            rng = np.random.default_rng([seed, index])
            waveform = augmenter(manifest.audio(index, sample_rate=sample_rate), rng, sample_rate)
            waveform = waveform / max(1.0, float(np.abs(waveform).max()))
            write_audio(folder / _AUDIO / _file_name(manifest.ids[index]), waveform, sample_rate)
            return kaldi.seconds(len(waveform) / sample_rate)

        count = len(manifest)
        durations = (
            (manifest.ids[index], seconds)
            for index, seconds in in_threads(write, range(count), count, f"{out}: augmenting")
        )
        kaldi.write_sorted_table(folder / kaldi.UTT2DUR, durations)
        paths = ((utterance, str((out / _AUDIO / _file_name(utterance)).absolute())) for utterance in manifest.ids)
        kaldi.write_sorted_table(folder / kaldi.WAV_SCP, paths)
        write_parts([manifest], set(names) - remade - set(left), folder)
        if not config.keeps_time and (folder / kaldi.PHONES_CTM).exists():
            (folder / kaldi.PHONES_CTM).unlink()
            left.append(kaldi.PHONES_CTM)
    return [f"{name} is left out: the speed changes" for name in left]


def _file_name(utterance: str) -> str:
    return f"{kaldi.file_stem(utterance)}.flac"
