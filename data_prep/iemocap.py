"""IEMOCAP: ten actors in five sessions of two, playing and improvising with emotion, 16 kHz, 12 h.

Layout: `Session<1 ... 5>/sentences/wav/<dialogue>/<turn>.wav` and `Session<n>/dialog/EmoEvaluation/<dialogue>.txt` (`[start - end] <turn> <emotion> [v, a, d]`
between tabs, among lines of single raters), in the folder or in `IEMOCAP_full_release` inside it. Licence: on request, for research. Source: Busso et al.:
"IEMOCAP: interactive emotional dyadic motion capture database", Language Resources and Evaluation 42, 2008.

Writes `all`: the turns that most raters found neutral, happy or excited (both `hap`), angry or sad, as SUPERB takes them, 5,531, with `utt2emotion` (`neu`, `hap`,
`ang`, `sad`), `utt2session` (`Session1` ...) and `utt2dialogue`. Speaker: session and gender, `Ses01F`. Id: `<speaker>-<turn>`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.corpus import compare_numbers, listed, published, text_lines, write_imitation
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FOLDER = "IEMOCAP_full_release"
_SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
_EMOTIONS = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
_RATED = re.compile(r"\[[0-9.]+ - [0-9.]+\]\t(\S+)\t([a-z]+)\t\[.*\]")
_TURN = re.compile(r"(Ses0[1-5])[FM]_\w+_([FM])[0-9]+")


def prepare(corpus: Path | None, out: Path) -> None:
    """Write the data directory `all` under `out`; nothing is copied."""
    if corpus is not None and (corpus / _FOLDER).is_dir():
        corpus = corpus / _FOLDER
    corpus = published(corpus, *(f"{session}/dialog/EmoEvaluation" for session in _SESSIONS))
    write_data_dir((turn for session in _SESSIONS for turn in _session(corpus / session)), out / "all")
    compare_numbers(corpus, out, {"all": 5531})


def fake(root: Path) -> None:
    """Write a tiny imitation: a dialogue of each session, with every emotion that is kept, two that are not, and a rater's lines."""
    rng = np.random.default_rng(0)
    for number, session in enumerate(_SESSIONS, start=1):
        dialogue = f"Ses0{number}F_impro01"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for index, emotion in enumerate((*_EMOTIONS, "neu", "xxx", "fru")):
            turn = f"{dialogue}_{'FM'[index % 2]}{index:03d}"
            path = root / session / "sentences" / "wav" / dialogue / f"{turn}.wav"
            write_imitation(path, rng, duration=0.6, sample_rate=16000)
            lines += [f"[{index}.2901 - {index}.8901]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]"]
            lines += ["C-E2:\tNeutral;\t()", ""]
        folder = root / session / "dialog" / "EmoEvaluation"
        folder.mkdir(parents=True)
        (folder / f"{dialogue}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _session(folder: Path) -> Iterator[CorpusUtterance]:
    files = listed(folder / "dialog" / "EmoEvaluation", "Ses*.txt")
    if not files:
        raise ValueError(f"{folder / 'dialog' / 'EmoEvaluation'}: holds no Ses*.txt; unpack the whole corpus")
    for file in files:
        for number, line in enumerate(text_lines(file), start=1):
            rated = _RATED.fullmatch(line.strip())
            if rated is None or rated[2] not in _EMOTIONS:
                continue
            turn = _TURN.fullmatch(rated[1])
            path = folder / "sentences" / "wav" / file.stem / f"{rated[1]}.wav"
            if turn is None or not path.is_file():
                what = "is no name of a turn" if turn is None else f"has no recording {path}"
                raise ValueError(f"{file}:{number}: {rated[1]!r} {what}; restore the file, or unpack the whole corpus")
            speaker = turn[1] + turn[2]
            columns = {"utt2emotion": _EMOTIONS[rated[2]], "utt2session": folder.name, "utt2dialogue": file.stem}
            name = f"{speaker}-{rated[1]}"
            yield CorpusUtterance(name, name, path, speaker, columns=columns)
