"""What models of ours say of converted voices: which words are heard, and whose voice it is."""

from __future__ import annotations

import tempfile
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.kaldi import UTT2SPK
from audiossl.data.loader import LoaderConfig
from audiossl.data.whole import FileList
from audiossl.metrics._detection import detection_curve
from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiossl.data.manifest import Manifest
    from audiossl.train.fine_tune import FineTune
    from audiossl.verification.extract import Embedder


def check_judges(recogniser: str, verifier: str) -> None:
    """Open what is named, "" is not, and keep it; ValueError says which cannot be."""
    for name, source, opened in (("recogniser", recogniser, _recogniser), ("verifier", verifier, _embedder)):
        try:
            if source:
                opened(source)
        except (ValueError, OSError) as error:
            raise ValueError(f"task.{name}: {error}") from None


def recognised(
    waveforms: Sequence[np.ndarray], sample_rate: int, texts: Sequence[str], experiment: str
) -> dict[str, float]:
    """Word and character error rate in percent of a fine-tuned recogniser; both texts in capitals and without punctuation.

    What it cannot use counts as silence: nothing was recognised.
    """
    from audiossl.train.run_finetune import predict_all

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.wav" for index in range(len(waveforms))]
        for path, waveform in zip(paths, waveforms, strict=True):
            write_audio(path, _tamed(waveform), sample_rate)
        config = LoaderConfig(batch_seconds=100.0, num_workers=0)
        said = dict(predict_all(_recogniser(experiment), FileList(tuple(paths)), config, on_bad=lambda *_: None))
    heard = [_plain(said.get(str(path), "")) for path in paths]
    wanted = [_plain(text) for text in texts]
    return {"wer": word_error_rate(heard, wanted), "cer": character_error_rate(heard, wanted)}


def verified(
    waveforms: Sequence[np.ndarray],
    sample_rate: int,
    targets: Sequence[str],
    manifest: Manifest,
    rows: Sequence[int],
    encoder: str,
) -> dict[str, float]:
    """Percent of conversions whose cosine to the target's recording reaches the threshold of equal errors.

    targets: the target's recording for each. rows: of the utterances in `manifest`. The threshold is that of all pairs of recordings, the utterances' and the
    target's; nothing is returned where the utterances are of one speaker, as the target's own are.
    """
    speakers = manifest.column(UTT2SPK)
    if len({speakers[row] for row in rows}) < 2:
        return {}
    embedder = _embedder(encoder)
    rate, files = embedder.sample_rate, sorted(set(targets))
    theirs = {path: _embedding(embedder, read_audio(path, sample_rate=rate)) for path in files}
    others = [_embedding(embedder, manifest.audio(row, sample_rate=rate)) for row in rows]
    who = np.array([*[""] * len(files), *(speakers[row] for row in rows)])  # no speaker is called ""
    vectors = np.stack([*theirs.values(), *others])
    first, second = np.triu_indices(len(vectors), 1)
    threshold = equal_error_threshold((vectors[first] * vectors[second]).sum(axis=1), who[first] == who[second])
    cosines = np.array(
        [
            _embedding(embedder, _resampled(wave, sample_rate, rate)) @ theirs[path]
            for wave, path in zip(waveforms, targets, strict=True)
        ]
    )
    return {"accept": 100.0 * float(np.mean(cosines >= threshold))}


def equal_error_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """Score from which on to accept so that as many targets are rejected as others are accepted, as nearly as the trials allow: midway to the score below."""
    curve = detection_curve(scores, labels)
    place = int(np.argmin(np.abs(curve.miss_rate - curve.false_alarm_rate)[:-1]))
    return float(curve.scores[max(place - 1, 0)] + curve.scores[place]) / 2.0


@lru_cache(maxsize=1)
def _recogniser(experiment: str) -> FineTune:
    from audiossl.train.run_finetune import load_finetuned

    return load_finetuned(experiment)[0]


@lru_cache(maxsize=1)
def _embedder(encoder: str) -> Embedder:
    from audiossl.verification.extract import open_embedder

    return open_embedder(encoder)


def _embedding(embedder: Embedder, waveform: np.ndarray) -> np.ndarray:
    """(dim,) of length 1."""
    padded = np.pad(waveform, (0, max(embedder.min_samples - len(waveform), 0)))
    vector = embedder.embed(torch.from_numpy(padded)[None], torch.tensor([len(padded)]))[0].cpu().numpy()
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


def _resampled(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import soxr

    return np.asarray(soxr.resample(_tamed(waveform), rate, wanted, quality="HQ"), np.float32)


def _tamed(waveform: np.ndarray) -> np.ndarray:
    """No louder than a file can hold."""
    return waveform / max(1.0, float(np.abs(waveform).max()))


def _plain(text: str) -> str:
    kept = (letter for letter in text.upper() if unicodedata.category(letter)[0] != "P")
    return " ".join("".join(kept).split())
