"""Voice Conversion Challenge 2020: 14 speakers, 70 sentences each to learn from and 25 to convert, 24 kHz, 1 h; task 1 stays in English.

Layout, the archives put together as SUPERB-SG has them: a folder per speaker with `E<number>.wav`, of sources (`SEF1` ...) and targets (`TEF1` ...), training, evaluation and the targets'
ground truth in one, and `prompts/Eng_transcriptions.txt` (number and text). Licence: ODbL 1.0. Source: Zhao et al., Joint workshop for the Blizzard Challenge and Voice
Conversion Challenge, 2020; github.com/nii-yamagishilab/VCC2020-database.

Writes, for one target, `train` and `dev` of its own sentences (60 and 10; dev are the last of those that begin with `E1`, as in SUPERB-SG), `test` of
the 25 evaluation sentences by each of four sources, and `reference`, the target saying these, with `text` where the prompts have all of a part;
`utt2target` is the target's recording of the same sentence. The published score is the mean of the four targets. Id: `<speaker>-<number>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import listed, published, text_lines, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PROMPTS = "prompts/Eng_transcriptions.txt"
_EVALUATION = "E3"  # what numbers of the sentences to convert begin with
_SHARED = "E1"  # likewise, of those to learn from that sources say too


@dataclass(frozen=True)
class Config:
    """target: speaker to convert to. sources: those who are converted. dev: how many of the target's sentences are for choosing."""

    target: str = "TEF1"
    sources: tuple[str, ...] = ("SEF1", "SEF2", "SEM1", "SEM2")
    dev: int = 10


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write the four data directories under `out`; nothing is copied."""
    config = config or Config()
    corpus = published(corpus, config.target, *config.sources, _PROMPTS)
    texts = dict(_texts(corpus / _PROMPTS))
    recordings = listed(corpus / config.target, "E*.wav")
    own = [path for path in recordings if not path.name.startswith(_EVALUATION)]
    own.sort(key=lambda path: path.name.startswith(_SHARED))
    wanted = [path for path in recordings if path.name.startswith(_EVALUATION)]
    if not wanted or not 0 < config.dev < len(own):
        raise ValueError(
            f"{corpus / config.target}: {len(own)} sentences to learn from, {config.dev} of them for dev, and {len(wanted)} of the evaluation ({_EVALUATION}*.wav); "
            "add the ground truth of the evaluation, or set prep.dev"
        )
    parts = {
        "train": [(path, path) for path in own[: -config.dev]],
        "dev": [(path, path) for path in own[-config.dev :]],
        "test": [(corpus / source / path.name, path) for source in config.sources for path in wanted],
        "reference": [(path, path) for path in wanted],
    }
    for part, pairs in parts.items():
        write_data_dir(_utterances(pairs, texts), out / part)


def fake(root: Path) -> None:
    """Write a tiny imitation: a target with twelve sentences to learn from, four sources, two sentences to convert."""
    rng = np.random.default_rng(0)
    config, numbers = Config(), [f"E300{number:02}" for number in (1, 2)]
    learnt = ["E20001", *(f"E100{number:02}" for number in range(60, 71))]
    for speaker in (config.target, *config.sources):
        for number in numbers + (learnt if speaker == config.target else []):
            write_imitation(root / speaker / f"{number}.wav", rng, duration=0.5, sample_rate=24_000)
    lines = [f"{number[1:]} This is sentence {number[-2:]}.\n" for number in (*learnt[:3], *numbers)]
    (root / _PROMPTS).parent.mkdir()
    (root / _PROMPTS).write_text("".join(lines), encoding="utf-8")


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    for line in text_lines(path):
        number, _, text = line.strip().partition(" ")
        if text:
            yield number, " ".join(text.split())


def _utterances(pairs: list[tuple[Path, Path]], texts: dict[str, str]) -> Iterator[CorpusUtterance]:
    written = all(path.stem[1:] in texts for path, _ in pairs)  # a column has a value for every utterance
    for path, target in pairs:
        if not path.is_file():
            raise ValueError(f"{path}: not there, but {target} is; unpack the archive of the evaluation again")
        speaker, name = path.parent.name, f"{path.parent.name}-{path.stem}"
        columns = {"utt2target": str(target)} | ({"text": texts[path.stem[1:]]} if written else {})
        yield CorpusUtterance(name, name, path, speaker, columns=columns)
