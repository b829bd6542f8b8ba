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
    source: Path,
    out: Path,
    config: AugmentConfig,
    *,
    seed: int,
    sample_rate: int,
    prefix: str = "",
    allow_commands: bool = False,
) -> list[str]:
    """Write the utterances of `source`, augmented, as the data directory `out`; returns what was left out, a line each.

    Every utterance becomes a 16-bit mono FLAC at `sample_rate` Hz under `out/audio`; what is done to it depends on `seed` and on its number alone. One
    that would pass full scale is made quieter. All tables of utterances and speakers are carried over; where the speed changes, `utt2dur` is made anew and
    phones, turns and units, whose times would be wrong, stay behind. prefix: of the ids of utterances and speakers, so that copies can be combined; with
    one, trials stay behind. ValueError if `out` exists or a recording cannot be used.
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
            write_audio(folder / _AUDIO / _file_name(prefix + manifest.ids[index]), waveform, sample_rate)
            return kaldi.seconds(len(waveform) / sample_rate)

        count = len(manifest)
        durations = (
            (prefix + manifest.ids[index], seconds)
            for index, seconds in in_threads(write, range(count), count, f"{out}: augmenting")
        )
        kaldi.write_sorted_table(folder / kaldi.UTT2DUR, durations)
        ids = (prefix + utterance for utterance in manifest.ids)
        paths = ((utterance, str((out / _AUDIO / _file_name(utterance)).absolute())) for utterance in ids)
        kaldi.write_sorted_table(folder / kaldi.WAV_SCP, paths)
        carried = set(names) - remade - set(left)
        write_parts([manifest], carried, folder)
        if not config.keeps_time and (folder / kaldi.PHONES_CTM).exists():
            (folder / kaldi.PHONES_CTM).unlink()
            left.append(kaldi.PHONES_CTM)
        told = [f"{name} is left out: the speed changes" for name in left]
        if prefix:
            _rename(folder, prefix, {*carried, kaldi.SPK2UTT, kaldi.PHONES_CTM})
            if (folder / kaldi.TRIALS).exists():
                (folder / kaldi.TRIALS).unlink()
                told.append(f"{kaldi.TRIALS} is left out: ids have a prefix")
    return told


def _rename(folder: Path, prefix: str, names: set[str]) -> None:
    """Put the prefix before the ids of utterances and speakers in those tables that are there."""
    named = {kaldi.UTT2SPK, kaldi.SPK2UTT}  # their values are ids too
    for path, name in ((folder / name, name) for name in names):
        if path.is_file():
            rows = (
                (prefix + key, " ".join(prefix + word for word in value.split()) if name in named else value)
                for _, key, value in kaldi.read_table(path)
            )
            kaldi.write_sorted_table(path, rows)


def _file_name(utterance: str) -> str:
    return f"{kaldi.file_stem(utterance)}.flac"
