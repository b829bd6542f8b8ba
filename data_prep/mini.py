"""Over two hours of synthetic English for trying things out: sentences with phones, and keywords, by 152 voices of espeak-ng.

No corpus is downloaded: the sentences come from a grammar of 64 words (`audiossl/data/grammar.py`), the voices from the wheel `espeakng-loader`
(the extra `synth`; fetched where it is not installed; the engine is GPL-3). Each voice is a variant of espeak-ng with a pitch, a rate and a length of the vocal tract of its own;
each utterance varies pitch, rate, intonation and level a little and has pink noise at 20 to 40 dB. It is made for fast tests and
tutorials: numbers on it say whether a method works, not how well it does on people.

Writes, in 16 kHz FLAC under `audio`: `train` (2.3 h), `train_10min` (part of train, the voices taken in turn), `dev` (3 min), `test`
(10 min) with `text`, `utt2phones` and `phones.ctm`, exact and with every sample covered (`SIL` where nothing is said, which `utt2phones` leaves
out); and one-second clips `keywords_train`, `keywords_dev`, `keywords_test` with `utt2keyword` too. Variants are disjoint between train, dev and test, and no sentence
comes twice; all words of dev and test are in train. The same byte for byte in every run with the same espeak-ng, C library and
FLAC encoder, whatever `workers` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data import grammar
from audiossl.data.synthesis import Line, Recorded, Recording, Studio, make_voices, most_voices
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from audiossl.data.synthesis import Voice

KEYWORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
)
_SHORTEST, _LONGEST = 4, 12  # words in a sentence
_TRIES = 200  # draws per sentence before the grammar counts as exhausted
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Config:
    """Numbers of voices, sentences and keyword clips in train, dev and test; labelled_minutes: length of `train_10min`.

    snr: least and greatest signal-to-noise ratio, dB. workers: espeak-ng processes; the result does not depend on it.
    """

    seed: int = 0
    voices: tuple[int, int, int] = (136, 6, 10)
    sentences: tuple[int, int, int] = (3360, 80, 240)
    keywords: tuple[int, int, int] = (1600, 200, 400)
    labelled_minutes: float = 10.0
    snr: tuple[float, float] = (20.0, 40.0)
    workers: int = 2

    def __post_init__(self) -> None:
        for split, wanted in zip(_SPLITS, self.voices, strict=True):
            if not 0 < wanted <= most_voices(split):
                raise ValueError(f"prep.voices: {wanted} voices for {split}; there are 1 to {most_voices(split)}")
        if min(*self.sentences, *self.keywords, self.workers) < 1:
            raise ValueError("prep: sentences, keywords and workers must be at least 1")
        if self.snr[0] > self.snr[1]:
            raise ValueError(f"prep.snr: {list(self.snr)} is not [least, greatest] in dB")

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest corpus that has everything, for tests."""
        return cls(voices=(3, 2, 2), sentences=(12, 4, 4), keywords=(20, 20, 20), labelled_minutes=0.2)


@dataclass(frozen=True)
class _Utterance:
    """What is said into a file, and what is known of it."""

    words: str
    recording: Recording
    keyword: str | None = None

    def described(self, recorded: Recorded) -> CorpusUtterance:
        """What the data directory holds of it."""
        path, (line,) = self.recording.path, self.recording.lines
        columns = {"text": self.words, "utt2phones": recorded.spoken} | (
            {"utt2keyword": self.keyword} if self.keyword else {}
        )
        return CorpusUtterance(path.stem, path.stem, path, line.voice.name, columns=columns, phones=recorded.phones)


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Synthesise everything under `out`; ValueError without espeak-ng."""
    config = config or Config()
    if corpus is not None:
        raise ValueError(f"{corpus}: mini is synthesised and reads no corpus; leave out --corpus")
    sentences = _sentences(config)
    planned = {split: list(_said(split, sentences[split], out, config)) for split in _SPLITS}
    planned |= {f"keywords_{split}": list(_clips(split, out, config)) for split in _SPLITS}
    with Studio(config.workers) as studio:
        for name, utterances in planned.items():
            recorded = list(studio.record([utterance.recording for utterance in utterances], name))
            made = [utterance.described(one) for utterance, one in zip(utterances, recorded, strict=True)]
            write_data_dir(made, out / name)
            if name == "train":
                ends = np.cumsum([one.seconds for one in recorded])
                write_data_dir(
                    made[: np.searchsorted(ends, 60.0 * config.labelled_minutes, "right")], out / "train_10min"
                )


def fake(root: Path) -> None:
    """Write nothing: mini has no published layout (`Config.tiny()` makes a small one)."""
    root.mkdir(parents=True, exist_ok=True)


def _sentences(config: Config) -> dict[str, list[grammar.Sentence]]:
    """Sentences of each split, none twice; those of dev and test use only words of train."""
    rules = grammar.english()
    known = grammar.vocabulary(rules)
    drawn: set[tuple[str, ...]] = set()
    found = {}
    for number, split in enumerate(_SPLITS):
        rng = np.random.default_rng((config.seed, 0, number))
        found[split] = list(_draw(rules, known, config.sentences[number], drawn, rng))
        if split == "train":
            known = {word for words in drawn for word in words}
            rules = grammar.restrict(rules, known)
    return found


def _draw(
    rules: grammar.Rules, known: set[str], count: int, drawn: set[tuple[str, ...]], rng: np.random.Generator
) -> Iterator[grammar.Sentence]:
    for _ in range(count):
        tries = (grammar.sample(rules, rng) for _ in range(_TRIES if rules else 0))
        sentence = next((one for one in tries if _fits(one.words, known) and one.words not in drawn), None)
        if sentence is None:
            raise ValueError(
                f"prep.sentences: the {len(known)} words of train make no {count} new sentences; ask for more in train"
            )
        drawn.add(sentence.words)
        yield sentence


def _fits(words: tuple[str, ...], known: set[str]) -> bool:
    return _SHORTEST <= len(words) <= _LONGEST and known.issuperset(words)


def _voices(split: str, config: Config) -> list[Voice]:
    number = _SPLITS.index(split)
    return make_voices(split, config.voices[number], np.random.default_rng((config.seed, 1, number)))


def _said(split: str, sentences: Sequence[grammar.Sentence], out: Path, config: Config) -> Iterator[_Utterance]:
    """Voices take sentences in turn."""
    voices = _voices(split, config)
    for index, sentence in enumerate(sentences):
        voice = voices[index % len(voices)]
        path = out / "audio" / split / f"{voice.name}-{index // len(voices):04d}.flac"
        seed = (config.seed, 2, _SPLITS.index(split), index)
        yield _Utterance(
            " ".join(sentence.words), Recording(path, (Line(sentence.spoken, voice),), seed, snr=config.snr)
        )


def _clips(split: str, out: Path, config: Config) -> Iterator[_Utterance]:
    """Keywords in turn, voice after voice, so that both come equally often; a second each."""
    voices = _voices(split, config)
    count = config.keywords[_SPLITS.index(split)]
    for index in range(count):
        voice = voices[index * len(voices) // count]
        word = KEYWORDS[index % len(KEYWORDS)]
        path = out / "audio" / f"keywords_{split}" / f"{voice.name}-{word}-{index:04d}.flac"
        seed = (config.seed, 3, _SPLITS.index(split), index)
        yield _Utterance(
            word.upper(), Recording(path, (Line(f"{word}.", voice),), seed, clip=1.0, snr=config.snr), word
        )
