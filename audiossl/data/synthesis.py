"""Synthetic speakers: voices of espeak-ng with throats of their own, what they say, how they say it, and its recording.

A recording depends on its own seed alone, so that any number of engines gives the same bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

import numpy as np

from audiossl.data.audio import write_audio
from audiossl.data.espeak import Request, Speech, Synthesiser
from audiossl.data.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

SAMPLE_RATE = 16000
SILENCE = "SIL"
_THROATS = 4  # voices that share a variant of espeak-ng

# Variants of espeak-ng that sound like a person; relatives (iven, iven2; steph, steph2 ...) stay in one split.
_VARIANTS = {
    "train": "Alex Andrea Andy Annie Denis Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Nguyen Reed Tweaky adam "
    "anika belinda boris david ed edward edward2 f1 f2 f5 iven iven2 linda m1 m3 m4",
    "dev": "f3 m2 steph caleb pablo john victor",
    "test": "f4 m5 shelby travis quincy robert Alicia benjamin m8 sandro",
}
_FORMANTS = (0.86, 1.16)  # times the variant's own: shorter and longer vocal tracts
_PAD = (0.05, 0.25)  # seconds before and after a sentence
_LEVEL = (-32.0, -22.0)  # speech, dB full scale


@dataclass(frozen=True)
class Voice:
    """A speaker: a variant of espeak-ng, its pitch (0-100), its rate in words per minute and what its formants are multiplied by."""

    name: str
    variant: str
    pitch: int
    rate: int
    formants: float


@dataclass(frozen=True)
class Manner:
    """How something is said: added to pitch and its range (0-100), multiplied with the rate, added to the level in dB."""

    pitch: int = 0
    range: int = 0
    rate: float = 1.0
    level: float = 0.0


@dataclass(frozen=True)
class Line:
    """What a voice says. gap: seconds from the end of the line before; negative where it interrupts."""

    text: str
    voice: Voice
    manner: Manner = field(default_factory=Manner)
    gap: float = 0.0


@dataclass(frozen=True)
class Recording:
    """What is recorded into a file. clip: its length in seconds, with the speech somewhere inside; None: with a little silence around it.

    lines: none is noise alone, which needs a clip. snr: least and greatest ratio of speech to noise, dB. parts: files for each line by itself, where and as
    loud as it is in the recording.
    """

    path: Path
    lines: tuple[Line, ...]
    seed: tuple[int, ...]
    clip: float | None = None
    snr: tuple[float, float] = (20.0, 40.0)
    parts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """seconds: of the whole. spans: (start, duration) of each line. phones: (start, duration, phone) of a recording of one line."""

    seconds: float
    spans: list[tuple[float, float]]
    phones: list[tuple[float, float, str]]

    @property
    def spoken(self) -> str:
        """Phones without silence, as `utt2phones` has them."""
        return " ".join(phone for *_, phone in self.phones if phone != SILENCE)


def most_voices(split: str) -> int:
    """How many voices `train`, `dev` or `test` can have."""
    return _THROATS * len(_VARIANTS[split].split())


def make_voices(split: str, count: int, rng: np.random.Generator) -> list[Voice]:
    """Every variant of a split (`train`, `dev`, `test`) once, then all of them again with another throat; none is in two splits."""
    variants = _VARIANTS[split].split()
    if not 0 < count <= most_voices(split):
        raise ValueError(f"{count} voices for {split}; there are 1 to {most_voices(split)}")
    return [
        Voice(
            f"{variant.lower()}.{'abcd'[index // len(variants)]}",
            f"en+{variant}",
            pitch=int(rng.integers(25, 76)),
            rate=int(rng.integers(140, 186)),
            formants=float(rng.uniform(*_FORMANTS)),
        )
        for index in range(count)
        for variant in (variants[index % len(variants)],)
    ]


class Studio:
    """Several espeak-ng processes, in a `with` statement."""

    def __init__(self, workers: int) -> None:
        self._stack = ExitStack()
        self._idle: SimpleQueue[Synthesiser] = SimpleQueue()
        for _ in range(workers):
            self._idle.put(self._stack.enter_context(Synthesiser()))
        self._pool = self._stack.enter_context(ThreadPoolExecutor(workers))

    def record(self, recordings: Sequence[Recording], label: str) -> Iterator[Recorded]:
        """Write each recording, in order."""
        for recording in recordings:
            recording.path.parent.mkdir(parents=True, exist_ok=True)
        yield from progress(self._pool.map(self._record, recordings), len(recordings), label)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _record(self, recording: Recording) -> Recorded:
        rng = np.random.default_rng(recording.seed)
        requests = [_request(line, rng) for line in recording.lines]
        synthesiser = self._idle.get()
        try:
            speeches = [synthesiser.speak(request) for request in requests]
        finally:
            self._idle.put(synthesiser)
        for speech, line in zip(speeches, recording.lines, strict=True):
            # Played back faster, everything is higher: formants, pitch and tempo, of which the request has slowed the tempo.
            speech.sample_rate = round(speech.sample_rate * line.voice.formants)
        waveform, parts, spans = _mix(recording, speeches, np.random.default_rng((*recording.seed, 0)))
        write_audio(recording.path, waveform, SAMPLE_RATE)
        if recording.parts:
            for path, part in zip(recording.parts, parts, strict=True):
                write_audio(path, part, SAMPLE_RATE)
        phones = phone_rows(speeches[0], spans[0][0], len(waveform)) if len(spans) == 1 else []
        places = [(first / SAMPLE_RATE, (last - first) / SAMPLE_RATE) for first, last in spans]
        return Recorded(len(waveform) / SAMPLE_RATE, places, phones)


def _request(line: Line, rng: np.random.Generator) -> Request:
    """Vary pitch, rate and intonation a little; what is played back at `formants` times its rate is spoken that much slower."""
    voice, manner = line.voice, line.manner
    pitch = voice.pitch + manner.pitch + int(rng.integers(-6, 7))
    rate = round((voice.rate * manner.rate + int(rng.integers(-10, 11))) / voice.formants)
    spread = int(rng.integers(35, 66)) + manner.range
    return Request(
        line.text, voice.variant, pitch=min(max(pitch, 0), 99), rate=min(max(rate, 80), 450), range=min(max(spread, 0), 99)
    )  # fmt: skip


def _mix(
    recording: Recording, speeches: Sequence[Speech], rng: np.random.Generator
) -> tuple[np.ndarray, Iterator[np.ndarray], list[tuple[int, int]]]:
    """Resample, place, set levels and add pink noise: (sample,) float64, each line alone in as many samples, and (first, last) sample of each."""
    import soxr

    sounds = [
        soxr.resample(speech.samples / np.float32(32768.0), speech.sample_rate, SAMPLE_RATE, quality="HQ")
        for speech in speeches
    ]
    starts = _starts(recording.lines, [len(sound) for sound in sounds])
    spans = [(start, start + len(sound)) for start, sound in zip(starts, sounds, strict=True)]
    length = max((last for _, last in spans), default=0)
    if recording.clip is not None:
        spare = max(round(recording.clip * SAMPLE_RATE) - length, 0)
        before = int(rng.integers(spare + 1))
        after = spare - before
    else:
        before, after = (round(rng.uniform(*_PAD) * SAMPLE_RATE) for _ in range(2))
    spans = [(first + before, last + before) for first, last in spans]
    level = 10.0 ** (rng.uniform(*_LEVEL) / 20.0)
    mixed = np.zeros(before + length + after)
    for place, (sound, line) in enumerate(zip(sounds, recording.lines, strict=True)):
        heard = sound[sound != 0.0].astype(np.float64)
        sounds[place] = sound * (level * 10.0 ** (line.manner.level / 20.0) / np.sqrt(np.mean(heard**2)))
        mixed[slice(*spans[place])] += sounds[place]
    mixed += pink_noise(len(mixed), rng) * level * 10.0 ** (-rng.uniform(*recording.snr) / 20.0)
    scale = min(1.0, 0.99 / np.abs(mixed).max())
    parts = (
        np.pad(sound * scale, (first, len(mixed) - last)) for sound, (first, last) in zip(sounds, spans, strict=True)
    )
    return mixed * scale, parts, spans


def _starts(lines: Sequence[Line], lengths: Sequence[int]) -> list[int]:
    """First sample of each line: its gap after the end of the one before, but neither before that one nor while its voice still speaks."""
    starts: list[int] = []
    quiet: dict[str, int] = {}  # from where on a voice says nothing
    end = 0
    for line, length in zip(lines, lengths, strict=True):
        start = max(end + round(line.gap * SAMPLE_RATE), quiet.get(line.voice.name, 0), *starts[-1:])
        end = quiet[line.voice.name] = start + length
        starts.append(start)
    return starts


def pink_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power whose power falls with 1 / frequency from 50 Hz upwards: (sample,)."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    frequencies = np.fft.rfftfreq(count, 1.0 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 50.0)), count)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def phone_rows(speech: Speech, before: int, total: int) -> list[tuple[float, float, str]]:
    """(start, duration, phone) in seconds; borders are whole samples, phones that were given no sample are left out."""
    scale = SAMPLE_RATE / speech.sample_rate
    marks = [(0, SILENCE)] + [(before + round(sample * scale), phone or SILENCE) for sample, phone in speech.phones]
    borders = [start for start, _ in marks[1:]] + [total]
    rows: list[tuple[int, int, str]] = []
    for (start, phone), end in zip(marks, borders, strict=True):
        if rows and end > start and phone == SILENCE == rows[-1][2]:
            rows[-1] = (rows[-1][0], end, SILENCE)
        elif end > start:
            rows.append((start, end, phone))
    return [(start / SAMPLE_RATE, (end - start) / SAMPLE_RATE, phone) for start, end, phone in rows]
