"""Over two hours of synthetic English for trying things out: sentences with phones, and keywords, by 152 voices of espeak-ng.

Nothing is downloaded: the sentences come from a grammar of 64 words (`audiossl/data/grammar.py`), the voices from the wheel `espeakng-loader`
(`pip install '.[synth]'` in a checkout; the engine is GPL-3). Each voice is a variant of espeak-ng with a pitch, a rate and a length of the vocal tract of its own;
each utterance varies pitch, rate, intonation and level a little and has pink noise at 20 to 40 dB. It is made for fast tests and
tutorials: numbers on it say whether a method works, not how well it does on people.

Writes, in 16 kHz FLAC under `audio`: `train` (2.3 h), `train_10min` (part of train, the voices taken in turn), `dev` (3 min), `test`
(10 min) with `text` and `phones.ctm`, exact and with every sample covered (`SIL` where nothing is said); and one-second clips
`keywords_train`, `keywords_dev`, `keywords_test` with `utt2keyword`. Variants are disjoint between train, dev and test, and no sentence
comes twice; all words of dev and test are in train. The same byte for byte in every run with the same espeak-ng, C library and
FLAC encoder, whatever `workers` is.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data import grammar
from audiossl.data.audio import write_audio
from audiossl.data.espeak import Request, Speech, Synthesiser
from audiossl.data.progress import progress
from audiossl.data.synthesis import SAMPLE_RATE, phone_rows, pink_noise
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

KEYWORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
)
_LANGUAGE = "en"
# Variants of espeak-ng that sound like a person; relatives (iven, iven2; steph, steph2 ...) stay in one split.
_VOICES = {
    "train": "Alex Andrea Andy Annie Denis Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Nguyen Reed Tweaky adam "
    "anika belinda boris david ed edward edward2 f1 f2 f5 iven iven2 linda m1 m3 m4",
    "dev": "f3 m2 steph caleb pablo john victor",
    "test": "f4 m5 shelby travis quincy robert Alicia benjamin m8 sandro",
}
_SHORTEST, _LONGEST = 4, 12  # words in a sentence
_TRIES = 200  # draws per sentence before the grammar counts as exhausted
_PAD = (0.05, 0.25)  # seconds before and after a sentence
_LEVEL = (-32.0, -22.0)  # speech, dB full scale
_SPLITS = ("train", "dev", "test")
_THROATS = 4  # voices that share a variant of espeak-ng
_FORMANTS = (0.86, 1.16)  # times the variant's own: shorter and longer vocal tracts


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
            most = _THROATS * len(_VOICES[split].split())
            if not 0 < wanted <= most:
                raise ValueError(f"prep.voices: {wanted} voices for {split}; there are 1 to {most}")
        if min(*self.sentences, *self.keywords, self.workers) < 1:
            raise ValueError("prep: sentences, keywords and workers must be at least 1")
        if self.snr[0] > self.snr[1]:
            raise ValueError(f"prep.snr: {list(self.snr)} is not [least, greatest] in dB")

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest corpus that has everything, for tests."""
        return cls(voices=(3, 2, 2), sentences=(12, 4, 4), keywords=(20, 20, 20), labelled_minutes=0.2)


@dataclass(frozen=True)
class _Task:
    """One utterance to be made; `seed` is all that its randomness depends on."""

    id: str
    speaker: str
    words: str
    request: Request
    path: Path
    seed: tuple[int, ...]
    formants: float
    keyword: str | None = None


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Synthesise everything under `out`; ValueError without espeak-ng."""
    config = config or Config()
    if corpus is not None:
        raise ValueError(f"{corpus}: mini is synthesised and reads no corpus; leave out --corpus")
    sentences = _sentences(config)
    tasks = {split: list(_sentence_tasks(split, sentences[split], out, config)) for split in _SPLITS}
    tasks |= {f"keywords_{split}": list(_keyword_tasks(split, out, config)) for split in _SPLITS}
    with ExitStack() as stack:
        idle: SimpleQueue[Synthesiser] = SimpleQueue()
        for _ in range(config.workers):
            idle.put(stack.enter_context(Synthesiser()))
        pool = stack.enter_context(ThreadPoolExecutor(config.workers))
        make = partial(_make, idle=idle, snr=config.snr)
        for name, planned in tasks.items():
            (out / "audio" / name).mkdir(parents=True)
            made = list(progress(pool.map(make, planned), len(planned), name))
            write_data_dir((utterance for utterance, _ in made), out / name)
            if name == "train":
                write_data_dir(_labelled(made, config.labelled_minutes), out / "train_10min")


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


@dataclass(frozen=True)
class _Voice:
    """A speaker: a variant of espeak-ng, its pitch (0-100), its rate in words per minute and what its formants are multiplied by."""

    name: str
    variant: str
    pitch: int
    rate: int
    formants: float


def _voices(split: str, config: Config) -> list[_Voice]:
    """Every variant of a split once, then all of them again with another throat."""
    number = _SPLITS.index(split)
    variants = _VOICES[split].split()
    rng = np.random.default_rng((config.seed, 1, number))
    return [
        _Voice(
            f"{variant.lower()}.{'abcd'[index // len(variants)]}",
            f"{_LANGUAGE}+{variant}",
            pitch=int(rng.integers(25, 76)),
            rate=int(rng.integers(140, 186)),
            formants=float(rng.uniform(*_FORMANTS)),
        )
        for index in range(config.voices[number])
        for variant in (variants[index % len(variants)],)
    ]


def _request(text: str, voice: _Voice, rng: np.random.Generator) -> Request:
    """What is played back at `formants` times its rate is spoken that much slower."""
    return Request(
        text,
        voice.variant,
        pitch=voice.pitch + int(rng.integers(-6, 7)),
        rate=round((voice.rate + int(rng.integers(-10, 11))) / voice.formants),
        range=int(rng.integers(35, 66)),
    )


def _sentence_tasks(split: str, sentences: Sequence[grammar.Sentence], out: Path, config: Config) -> Iterator[_Task]:
    """Voices take sentences in turn."""
    voices = _voices(split, config)
    for index, sentence in enumerate(sentences):
        voice = voices[index % len(voices)]
        seed = (config.seed, 2, _SPLITS.index(split), index)
        name = f"{voice.name}-{index // len(voices):04d}"
        request = _request(sentence.spoken, voice, np.random.default_rng(seed))
        path = out / "audio" / split / f"{name}.flac"
        yield _Task(name, voice.name, " ".join(sentence.words), request, path, (*seed, 0), voice.formants)


def _keyword_tasks(split: str, out: Path, config: Config) -> Iterator[_Task]:
    """Keywords in turn, voice after voice, so that both come equally often."""
    voices = _voices(split, config)
    count = config.keywords[_SPLITS.index(split)]
    for index in range(count):
        voice = voices[index * len(voices) // count]
        word = KEYWORDS[index % len(KEYWORDS)]
        seed = (config.seed, 3, _SPLITS.index(split), index)
        name = f"{voice.name}-{word}-{index:04d}"
        request = _request(f"{word}.", voice, np.random.default_rng(seed))
        path = out / "audio" / f"keywords_{split}" / f"{name}.flac"
        yield _Task(name, voice.name, word.upper(), request, path, (*seed, 0), voice.formants, keyword=word)


def _labelled(made: list[tuple[CorpusUtterance, float]], minutes: float) -> Iterator[CorpusUtterance]:
    """The first utterances, in the order in which voices took turns, that fit into `minutes`."""
    total = 0.0
    for utterance, duration in made:
        total += duration
        if total > 60.0 * minutes:
            return
        yield utterance


def _make(task: _Task, *, idle: SimpleQueue[Synthesiser], snr: tuple[float, float]) -> tuple[CorpusUtterance, float]:
    """Synthesise, vary and store one utterance; returns it and its duration in seconds."""
    synthesiser = idle.get()
    try:
        speech = synthesiser.speak(task.request)
    finally:
        idle.put(synthesiser)
    # Played back faster, everything is higher: formants, pitch and tempo, of which the request has slowed the tempo.
    speech.sample_rate = round(speech.sample_rate * task.formants)
    rng = np.random.default_rng(task.seed)
    waveform, before = _place(speech, keyword=task.keyword is not None, rng=rng)
    write_audio(task.path, _finish(waveform, snr, rng), SAMPLE_RATE)
    columns = {"text": task.words} | ({"utt2keyword": task.keyword} if task.keyword else {})
    phones = phone_rows(speech, before, len(waveform))
    utterance = CorpusUtterance(task.id, task.id, task.path, task.speaker, columns=columns, phones=phones)
    return utterance, len(waveform) / SAMPLE_RATE


def _place(speech: Speech, *, keyword: bool, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Resample and pad: a keyword somewhere in one second, a sentence with a little silence around it.

    Returns the waveform (sample,) and how many samples come before the speech.
    """
    import soxr

    spoken = soxr.resample(speech.samples / np.float32(32768.0), speech.sample_rate, SAMPLE_RATE, quality="HQ")
    if keyword:
        spare = max(SAMPLE_RATE - len(spoken), 0)
        before = int(rng.integers(spare + 1))
        after = spare - before
    else:
        before, after = (round(rng.uniform(*_PAD) * SAMPLE_RATE) for _ in range(2))
    return np.pad(spoken, (before, after)), before


def _finish(waveform: np.ndarray, snr: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Set a level and add pink noise: (sample,) float64."""
    spoken = waveform[waveform != 0.0].astype(np.float64)
    level = 10.0 ** (rng.uniform(*_LEVEL) / 20.0)
    scaled = waveform * (level / np.sqrt(np.mean(spoken**2)))
    noise = pink_noise(len(waveform), rng) * level * 10.0 ** (-rng.uniform(*snr) / 20.0)
    mixed = scaled + noise
    return np.asarray(mixed * min(1.0, 0.99 / np.abs(mixed).max()))
