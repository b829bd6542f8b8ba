"""VoiceBank-DEMAND: 12,396 sentences of 30 speakers, clean and with noise at known levels, 48 kHz, 10 h.

Layout: `clean_trainset_28spk_wav`, `noisy_trainset_28spk_wav`, `clean_testset_wav` and `noisy_testset_wav`, each with the same `<speaker>_<number>.wav`; the 28
speakers' training set, not that of 56. At 16 kHz, as many have it, all four end in `_16k`. Licence: CC BY 4.0. Source:
Valentini-Botinhao: "Noisy speech database for training speech enhancement
algorithms and TTS models", 2017; datashare.ed.ac.uk/handle/10283/2791.

Writes `train` (26 speakers), `dev` (p226 and p287, as SUPERB-SG has it) and `test` (824 recordings of p232 and p257) of the noisy recordings, with the file of the
clean one in `utt2clean`. Id: the name of the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.corpus import compare_numbers, listed, published, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TRAIN, _TEST = "trainset_28spk_wav", "testset_wav"
_RESAMPLED = "_16k"
_UTTERANCES = {"train": 10_802, "dev": 770, "test": 824}
_DEV = ("p226", "p287")


def prepare(corpus: Path | None, out: Path) -> None:
    """Write the three data directories under `out`; nothing is copied."""
    resampled = corpus is not None and (corpus / f"noisy_{_TRAIN}{_RESAMPLED}").is_dir()
    train, test = (f"{part}{_RESAMPLED if resampled else ''}" for part in (_TRAIN, _TEST))
    corpus = published(corpus, *(f"{kind}_{part}" for part in (train, test) for kind in ("clean", "noisy")))
    training = list(_utterances(corpus, train))
    write_data_dir((one for one in training if one.speaker not in _DEV), out / "train")
    write_data_dir((one for one in training if one.speaker in _DEV), out / "dev")
    write_data_dir(_utterances(corpus, test), out / "test")
    compare_numbers(corpus, out, _UTTERANCES)


def fake(root: Path) -> None:
    """Write a tiny imitation: two sentences by each of two speakers of every part."""
    rng = np.random.default_rng(0)
    for part, speakers in ((_TRAIN, ("p226", "p228", "p287", "p286")), (_TEST, ("p232", "p257"))):
        for speaker in speakers:
            for number in (1, 2):
                clean, noisy = (root / f"{kind}_{part}" / f"{speaker}_{number:03d}.wav" for kind in ("clean", "noisy"))
                write_imitation(clean, rng, duration=0.5, sample_rate=48000)
                noisy.parent.mkdir(exist_ok=True)
                speech = read_audio(clean)
                write_audio(noisy, 0.5 * speech + 0.05 * rng.standard_normal(len(speech)), 48000)


def _utterances(corpus: Path, part: str) -> Iterator[CorpusUtterance]:
    folders = {kind: corpus / f"{kind}_{part}" for kind in ("clean", "noisy")}
    names = {kind: {path.name for path in listed(folder, "*.wav")} for kind, folder in folders.items()}
    for here, other in (("noisy", "clean"), ("clean", "noisy")):
        if lacking := names[here] - names[other]:
            missing = folders[other] / min(lacking)
            raise ValueError(f"{missing}: not there, but {folders[here] / min(lacking)} is; unpack the archive again")
    for name in sorted(names["noisy"]):
        path = folders["noisy"] / name
        columns = {"utt2clean": str(folders["clean"] / name)}
        yield CorpusUtterance(path.stem, path.stem, path, path.stem.partition("_")[0], columns=columns)
