"""A small sound data directory for the tests of this folder."""

from __future__ import annotations

import json

import numpy as np

from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir

RATE = 8000


def tone(seconds, *, rate=RATE, hertz=440.0):
    """A sine of amplitude 0.5: (sample,) float32."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(1, round(seconds * rate) + 1) / rate)).astype(np.float32)


def utterances(root, *, segments=True, speakers=2, per_speaker=3):
    """Each speaker has one recording of `per_speaker` seconds, cut into utterances of 1 s, or a 1 s file per utterance."""
    root.mkdir(parents=True, exist_ok=True)
    for s in range(speakers):
        for u in range(per_speaker):
            name = f"s{s}-{u}"
            columns = {"text": f"WORD {u}", "utt2lang": "xx"}
            phones = [(0.0, 0.4, "A"), (0.4, 0.6, "B")]
            path = root / (f"s{s}.wav" if segments else f"{name}.wav")
            if not path.exists():
                write_audio(path, tone(per_speaker if segments else 1.0, hertz=300 + 50 * s + 7 * u), RATE)
            times = {"start": float(u), "end": u + 1.0} if segments else {}
            yield CorpusUtterance(
                id=name,
                recording=f"s{s}" if segments else name,
                path=path,
                speaker=f"s{s}",
                columns=columns,
                phones=phones,
                **times,
            )


def make(root, *, segments=True, speakers=2, per_speaker=3):
    """Write `root/data` with all kinds of files, units at 10 Hz from a codebook of 4 among them."""
    made = list(utterances(root / "audio", segments=segments, speakers=speakers, per_speaker=per_speaker))
    out = root / "data"
    write_data_dir(made, out)
    (out / "units").mkdir()
    (out / "units" / "km4").write_text("".join(f"{u.id} {' '.join(str(i % 4) for i in range(10))}\n" for u in made))
    (out / "units" / "km4.json").write_text(json.dumps({"rate": 10.0, "codebook_size": 4}))
    (out / "trials").write_text("s0-0 s0-1 target\ns0-0 s1-0 nontarget\n")
    return out
