"""All ten tasks of SUPERB in more than four hours of synthetic English: directories of the right layout, by voices of espeak-ng.

Nothing is downloaded (`pip install '.[synth]'` in a checkout; the engine is GPL-3). It is made to run `audiossl superb all` from end to end in minutes, not to
rank encoders: nobody sounds like this.

Five tasks of SUPERB-SG are made if they are named, `--prep.tasks '["ood", "se", "ss", "st", "vc"]'`, and with `--prep.tasks '["all"]'`.

Writes, in 16 kHz FLAC under `audio`, a folder per task, each with `train`, `dev`, `test` unless said otherwise. Voices of train, dev
and test differ, except in `sid`.

* `pr`, `asr` (the same folder): sentences with `text`, `utt2phones` and `phones.ctm`.
* `ks`: clips of one second with `utt2keyword`: ten words, `_unknown_` (other words) and `_silence_` (noise).
* `sid`: sentences of the same voices in all three, by `utt2spk`.
* `asv`: sentences by `utt2spk`, in `train` of all the voices that it has; `dev` and `test` have `trials`, all pairs.
* `sd`: conversations of two voices that interrupt each other, with `utt2turns`.
* `ic`: commands with `utt2action`, `utt2object`, `utt2location`.
* `sf`: sentences with `utt2slots`, such as `BRING B-COLOUR RED E-COLOUR LAMP`, and `text` without the marks.
* `er`: `all`, with `utt2emotion` (pitch, intonation, rate and loudness tell it) and `utt2session`: five sessions of two voices.
* `ood`: sentences of Spanish with `text`.
* `se`: sentences in noise at 0 to 15 dB, and the file of each without it in `utt2clean`.
* `ss`: two voices who say a sentence at once, and the file of each alone in `utt2source1` and `utt2source2`.
* `st`: sentences with `text`, and in `utt2translation` what they are in German.
* `vc`: sentences of one voice in `train` and `dev`, of four others in `test`, with `text`; in `utt2target` the file of that one voice saying the same, which in
  `train` and `dev` is the recording itself. Those of `test` are `vc/reference`.
* `qbe`: `documents`, and `queries_dev`, `queries_eval` with `relevant` (query, document): two words of a sentence, by other voices.

The same byte for byte in every run with the same espeak-ng, C library and FLAC encoder, whatever `workers` is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

import numpy as np

from audiossl.data import grammar, kaldi
from audiossl.data.manifest import Manifest
from audiossl.data.synthesis import Line, Manner, Recorded, Recording, Studio, Voice, make_voices, most_voices
from audiossl.data.turns import UTT2TURNS, Turn, write_turns
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.verification.make_trials import make_trials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_SPLITS = ("train", "dev", "test")
# Of each split. Two of the ten variants in test are far from all of training: among few voices they would decide.
_VOICES = (24, 8, 20)
_ALL = "all"
_KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_OTHERS = ("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow")
_UNKNOWN, _KS_SILENCE = "_unknown_", "_silence_"
_SLOTS = ("NAME", "THING", "THINGS", "COLOUR", "PLACE", "DIGIT")
_EMOTIONS = {
    "neutral": Manner(range=-10),
    "happy": Manner(pitch=18, range=34, rate=1.1, level=2.0),
    "angry": Manner(pitch=6, range=10, rate=1.25, level=8.0),
    "sad": Manner(pitch=-16, range=-30, rate=0.75, level=-6.0),
}
_SESSIONS = 5
_ENGLISH = grammar.english()
_SPANISH = {
    "SENTENCE": "WHO DOES WHAT WHEN .",
    "WHO": "el gato | la niña | mi hermano | el jefe | una mujer | el pájaro | tu vecina | nadie",
    "DOES": "come | busca | vende | mira | lleva | quiere | pinta | compra",
    "WHAT": "una manzana | el periódico | los zapatos | dos sillas | su coche | el pañuelo | la llave | cuatro huevos",
    "WHEN": "en la cocina | por la mañana | cada día | sin prisa | aquí | en el jardín | el jueves | otra vez",
}
# What is said, and what it is in German; the words of each are in the order of the other's.
_GERMAN = {
    "WHO": {"the cat": "Die Katze", "my brother": "Mein Bruder", "the boss": "Der Chef", "a woman": "Eine Frau", "nobody": "Niemand", "your neighbour": "Dein Nachbar"},
    "DOES": {"sees": "sieht", "buys": "kauft", "paints": "malt", "brings": "bringt", "needs": "braucht", "sells": "verkauft"},
    "WHAT": {"a lamp": "eine Lampe", "the newspaper": "die Zeitung", "the red car": "das rote Auto", "two chairs": "zwei Stühle", "four eggs": "vier Eier", "the key": "den Schlüssel"},
    "WHEN": {"in the kitchen": "in der Küche", "today": "heute", "every day": "jeden Tag", "in the garden": "im Garten", "on Thursday": "am Donnerstag", "once more": "noch einmal"},
}  # fmt: skip
_LOCATIONS = ("none", "kitchen", "bedroom", "garden")
# Action: what may be said, and of which objects.
_COMMANDS = {
    "activate": (("turn on the {}", "switch on the {}"), ("lights", "radio", "heating")),
    "deactivate": (("turn off the {}", "switch off the {}"), ("lights", "radio", "heating")),
    "increase": (("turn up the {}", "raise the {}"), ("radio", "heating")),
    "decrease": (("turn down the {}", "lower the {}"), ("radio", "heating")),
    "bring": (("bring me the {}", "please get the {}"), ("basket", "newspaper")),
}
_INTENTS = [
    (action, thing, place)
    for action, (_, things) in _COMMANDS.items()
    for thing in things
    for place in (_LOCATIONS if action != "bring" else _LOCATIONS[:1])
]


@dataclass(frozen=True)
class Config:
    """tasks: which of them are written; `all` stands for everything there is. scale: how many utterances there are, times the default; workers: espeak-ng processes."""

    seed: int = 0
    tasks: tuple[str, ...] = ("pr", "ks", "sid", "asv", "sd", "ic", "sf", "er", "qbe")
    scale: float = 1.0
    workers: int = 2

    def __post_init__(self) -> None:
        strange = next((task for task in self.tasks if task not in (*_TASKS, _ALL)), None)
        if strange is not None:
            raise ValueError(f"prep.tasks: unknown {strange!r}; known: {_ALL}, {', '.join(_TASKS)} (asr comes with pr)")
        if not 0.0 < self.scale <= 5.0 or self.workers < 1:
            raise ValueError(
                f"prep: scale {self.scale} must be above 0, 5 at most, and workers {self.workers} at least 1"
            )

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest corpus that has everything, for tests."""
        return cls(scale=0.02)

    def count(self, number: int, least: int) -> int:
        """Scale a default number of utterances."""
        return max(round(self.scale * number), least)


@dataclass(frozen=True)
class _Said:
    """An utterance to be made. clip: its length in seconds, where that is fixed. snr: of its noise, dB. parts: columns for files of each line alone."""

    id: str
    speaker: str
    lines: tuple[Line, ...]
    columns: dict[str, str] = field(default_factory=dict)
    clip: float | None = None
    snr: tuple[float, float] = (20.0, 40.0)
    parts: tuple[str, ...] = ()


_Columns: TypeAlias = "Callable[[_Said, Recorded], dict[str, str]]"


@dataclass(frozen=True)
class _Maker:
    """Where and how utterances are made."""

    config: Config
    studio: Studio
    out: Path

    def rng(self, *place: str) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, crc32("/".join(place).encode())))

    def write(self, task: str, part: str, said: Sequence[_Said], more: _Columns | None = None) -> None:
        """Record and write the data directory `task/part`. more: columns that are known once an utterance is recorded."""
        where = (self.config.seed, crc32(f"{task}/{part} recordings".encode()))
        folder = self.out / "audio" / task / part
        alone = [{name: folder / f"{one.id}.{name.removeprefix('utt2')}.flac" for name in one.parts} for one in said]
        recordings = [
            Recording(folder / f"{one.id}.flac", one.lines, (*where, index), one.clip, one.snr, tuple(paths.values()))
            for index, (one, paths) in enumerate(zip(said, alone, strict=True))
        ]
        made = self.studio.record(recordings, f"{task}/{part}")
        rows = (
            CorpusUtterance(
                one.id, one.id, recording.path, one.speaker,
                columns=one.columns | {name: str(path) for name, path in paths.items()} | (more(one, recorded) if more else {}),
                phones=recorded.phones or None,
            )
            for one, paths, recording, recorded in zip(said, alone, recordings, made, strict=True)
        )  # fmt: skip
        write_data_dir(rows, self.out / task / part)


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Synthesise everything under `out`; ValueError without espeak-ng."""
    config = config or Config()
    if corpus is not None:
        raise ValueError(f"{corpus}: superb_mini is synthesised and reads no corpus; leave out --corpus")
    with Studio(config.workers) as studio:
        for task in _TASKS if _ALL in config.tasks else config.tasks:
            _TASKS[task](_Maker(config, studio, out))


def fake(root: Path) -> None:
    """Write nothing: superb_mini has no published layout (`Config.tiny()` makes a small one)."""
    root.mkdir(parents=True, exist_ok=True)


def _phones(_: _Said, recorded: Recorded) -> dict[str, str]:
    return {"utt2phones": recorded.spoken}


def _turns(said: _Said, recorded: Recorded) -> dict[str, str]:
    spans = zip(said.lines, recorded.spans, strict=True)
    return {UTT2TURNS: write_turns(Turn(line.voice.name, start, start + length) for line, (start, length) in spans)}


def _recognition(make: _Maker) -> None:
    drawn: set[tuple[str, ...]] = set()
    for split, number, voices in zip(_SPLITS, (400, 80, 200), _VOICES, strict=True):
        rng = make.rng("pr", split)
        said = _sentences(make_voices(split, voices, rng), make.config.count(number, 8), drawn, rng)
        make.write("pr", split, list(said), _phones)
    (make.out / "asr").symlink_to("pr")


def _sentences(
    voices: Sequence[Voice],
    count: int,
    drawn: set[tuple[str, ...]],
    rng: np.random.Generator,
    rules: grammar.Rules = _ENGLISH,
) -> Iterator[_Said]:
    """Voices take sentences in line; none was drawn before."""
    for index in range(count):
        sentence = _sentence(rules, drawn, rng)
        voice = voices[index % len(voices)]
        lines = (Line(sentence.spoken, voice),)
        yield _Said(f"{voice.name}-{index:04d}", voice.name, lines, {"text": " ".join(sentence.words)})


def _sentence(rules: grammar.Rules, drawn: set[tuple[str, ...]], rng: np.random.Generator) -> grammar.Sentence:
    while True:
        sentence = grammar.sample(rules, rng)
        if sentence.words not in drawn and len(sentence.words) >= 4:
            drawn.add(sentence.words)
            return sentence


def _keywords(make: _Maker) -> None:
    classes = (*_KEYWORDS, _UNKNOWN, _KS_SILENCE)
    for split, number, voices in zip(_SPLITS, (600, 240, 480), _VOICES, strict=True):
        rng = make.rng("ks", split)
        speakers = make_voices(split, voices, rng)
        said = []
        for index in range(make.config.count(number, 2 * len(classes))):
            label, voice = classes[index % len(classes)], speakers[int(rng.integers(len(speakers)))]
            word = _OTHERS[int(rng.integers(len(_OTHERS)))] if label == _UNKNOWN else label
            silent = label == _KS_SILENCE
            lines = () if silent else (Line(f"{word}.", voice),)
            speaker = "noise" if silent else voice.name
            said.append(_Said(f"{speaker}-{index:04d}", speaker, lines, {"utt2keyword": label}, clip=1.0))
        make.write("ks", split, said)


def _speakers(make: _Maker) -> None:
    voices = make_voices("train", 12, make.rng("sid"))
    drawn: set[tuple[str, ...]] = set()
    for split, number in zip(_SPLITS, (240, 60, 120), strict=True):
        count = make.config.count(number, len(voices))
        make.write("sid", split, list(_sentences(voices, count, drawn, make.rng("sid", split))))


def _verification(make: _Maker) -> None:
    heard = min(make.config.count(most_voices("train"), 20), most_voices("train"))
    for split, number, voices in zip(_SPLITS, (816, 96, 200), (heard, 12, 20), strict=True):
        rng = make.rng("asv", split)
        speakers = make_voices(split, voices, rng)
        make.write("asv", split, list(_sentences(speakers, make.config.count(number, 2 * voices), set(), rng)))
        if split != "train":
            folder = make.out / "asv" / split
            make_trials(Manifest.open(folder), folder / kaldi.TRIALS, rng=rng)


def _diarization(make: _Maker) -> None:
    for split, number, voices in zip(_SPLITS, (400, 80, 160), _VOICES, strict=True):
        rng = make.rng("sd", split)
        speakers = make_voices(split, voices, rng)
        said = []
        for index in range(make.config.count(number, 4)):
            pair = [speakers[int(one)] for one in rng.choice(len(speakers), 2, replace=False)]
            lines = tuple(
                Line(_sentence(_ENGLISH, set(), rng).spoken, pair[line % 2], gap=float(rng.uniform(-1.2, 0.6)))
                for line in range(4)
            )
            said.append(_Said(f"mixture-{index:04d}", "mixture", lines))
        make.write("sd", split, said, _turns)


def _intents(make: _Maker) -> None:
    for split, number, voices in zip(_SPLITS, (360, 72, 216), _VOICES, strict=True):
        rng = make.rng("ic", split)
        speakers = make_voices(split, voices, rng)
        said = []
        for index in range(make.config.count(number, len(_INTENTS))):
            action, thing, place = _INTENTS[index % len(_INTENTS)]
            phrases = _COMMANDS[action][0]
            text = phrases[int(rng.integers(len(phrases)))].format(thing)
            text += "" if place == "none" else f" in the {place}"
            voice = speakers[int(rng.integers(len(speakers)))]
            columns = {"text": text.upper(), "utt2action": action, "utt2object": thing, "utt2location": place}
            said.append(_Said(f"{voice.name}-{index:04d}", voice.name, (Line(f"{text}.", voice),), columns))
        make.write("ic", split, said)


def _slots(make: _Maker) -> None:
    rules = _ENGLISH
    marked = rules | {
        name: [(f"B-{_kind(name)}", *option, f"E-{_kind(name)}") for option in rules[name]] for name in _SLOTS
    }
    # `anna's` would be half inside a slot.
    marked["THE_THING"] = [option for option in marked["THE_THING"] if "'s" not in option]
    drawn: set[tuple[str, ...]] = set()
    for split, number, voices in zip(_SPLITS, (400, 80, 200), _VOICES, strict=True):
        rng = make.rng("sf", split)
        speakers = make_voices(split, voices, rng)
        said = []
        for index in range(make.config.count(number, 8)):
            sentence = _sentence(marked, drawn, rng)
            voice = speakers[index % len(speakers)]
            words = [word for word in sentence.words if not _is_mark(word)]
            spoken = " ".join(word for word in sentence.spoken.split() if not _is_mark(word))
            columns = {"text": " ".join(words), "utt2slots": " ".join(sentence.words)}
            said.append(_Said(f"{voice.name}-{index:04d}", voice.name, (Line(spoken, voice),), columns))
        make.write("sf", split, said)


def _kind(symbol: str) -> str:
    return "THING" if symbol == "THINGS" else symbol


def _is_mark(word: str) -> bool:
    return word.startswith(("B-", "E-"))


def _emotions(make: _Maker) -> None:
    rng = make.rng("er")
    voices = make_voices("train", 2 * _SESSIONS, rng)
    said = []
    for index in range(make.config.count(480, 4 * len(_EMOTIONS) * _SESSIONS)):
        emotion = list(_EMOTIONS)[index % len(_EMOTIONS)]
        place = index // len(_EMOTIONS) % len(voices)
        voice, session = voices[place], f"session{place // 2 + 1}"
        sentence = _sentence(_ENGLISH, set(), rng)
        columns = {"text": " ".join(sentence.words), "utt2emotion": emotion, "utt2session": session}
        lines = (Line(sentence.spoken, voice, _EMOTIONS[emotion]),)
        said.append(_Said(f"{voice.name}-{index:04d}", voice.name, lines, columns))
    make.write("er", "all", said)


def _foreign(make: _Maker) -> None:
    rules = {symbol: [tuple(one.split()) for one in options.split(" | ")] for symbol, options in _SPANISH.items()}
    drawn: set[tuple[str, ...]] = set()
    for split, number, voices in zip(_SPLITS, (300, 40, 60), (24, 4, 8), strict=True):
        rng = make.rng("ood", split)
        speakers = [replace(voice, variant=f"es+{voice.variant[3:]}") for voice in make_voices(split, voices, rng)]
        make.write("ood", split, list(_sentences(speakers, make.config.count(number, 8), drawn, rng, rules)))


def _enhancement(make: _Maker) -> None:
    for split, number, voices in zip(_SPLITS, (200, 30, 50), (24, 4, 8), strict=True):
        rng = make.rng("se", split)
        said = _sentences(make_voices(split, voices, rng), make.config.count(number, 6), set(), rng)
        make.write("se", split, [replace(one, snr=(0.0, 15.0), parts=("utt2clean",)) for one in said])


def _separation(make: _Maker) -> None:
    for split, number, voices in zip(_SPLITS, (150, 20, 40), (12, 4, 6), strict=True):
        rng = make.rng("ss", split)
        speakers = make_voices(split, voices, rng)
        said = []
        for index in range(make.config.count(number, 4)):
            pair = [speakers[int(one)] for one in rng.choice(len(speakers), 2, replace=False)]
            # The second one begins with the first.
            lines = tuple(Line(_sentence(_ENGLISH, set(), rng).spoken, voice, gap=-60.0) for voice in pair)
            said.append(
                _Said(f"mixture-{index:04d}", "mixture", lines, snr=(50.0, 60.0), parts=("utt2source1", "utt2source2"))
            )
        make.write("ss", split, said)


def _translation(make: _Maker) -> None:
    pairs = list(product(*(parts.items() for parts in _GERMAN.values())))
    drawn = iter(make.rng("st").permutation(len(pairs)).tolist())
    for split, number, voices in zip(_SPLITS, (300, 40, 60), (24, 4, 8), strict=True):
        speakers = make_voices(split, voices, make.rng("st", split))
        said = []
        for index in range(make.config.count(number, 8)):
            english, german = zip(*pairs[next(drawn)], strict=True)
            voice, text = speakers[index % len(speakers)], " ".join(english)
            columns = {"text": text.upper(), "utt2translation": f"{' '.join(german)}."}
            said.append(_Said(f"{voice.name}-{index:04d}", voice.name, (Line(f"{text}.", voice),), columns))
        make.write("st", split, said)


def _conversion(make: _Maker) -> None:
    (target,) = make_voices("train", 1, make.rng("vc"))
    drawn: set[tuple[str, ...]] = set()
    own = make.out / "audio" / "vc"
    for split, number in (("train", 60), ("dev", 10)):
        said = list(_sentences([target], make.config.count(number, 6), drawn, make.rng("vc", split)))
        make.write("vc", split, [_with_target(one, own / split / f"{one.id}.flac") for one in said])
    rng = make.rng("vc", "test")
    sources = make_voices("test", 4, rng)
    wanted = list(_sentences([target], make.config.count(25, 2), drawn, rng))
    make.write("vc", "reference", wanted)
    said = [
        replace(
            _with_target(one, own / "reference" / f"{one.id}.flac"),
            id=f"{voice.name}-{index:04d}", speaker=voice.name, lines=(replace(one.lines[0], voice=voice),),
        )
        for index, one in enumerate(wanted)
        for voice in sources
    ]  # fmt: skip
    make.write("vc", "test", said)


def _with_target(said: _Said, path: Path) -> _Said:
    return replace(said, columns=said.columns | {"utt2target": str(path)})


def _search(make: _Maker) -> None:
    rng = make.rng("qbe")
    documents = list(_sentences(make_voices("train", 24, rng), make.config.count(120, 16), set(), rng))
    make.write("qbe", "documents", documents)
    texts = {one.id: f" {one.columns['text']} " for one in documents}
    pairs = sorted(
        {
            f"{first} {second}"
            for text in texts.values()
            for first, second in zip(text.split(), text.split()[1:], strict=False)
            if len(first) + len(second) > 6
        }
    )
    chosen = rng.permutation(len(pairs))[: 2 * make.config.count(140, 6)]  # as many as QUESST14 has in English
    for part, split, places in (("queries_dev", "dev", chosen[::2]), ("queries_eval", "test", chosen[1::2])):
        voices = make_voices(split, 6, rng)
        said = [
            _Said(f"{voice.name}-{index:04d}", voice.name, (Line(f"{pairs[place].lower()}.", voice),), {"text": pairs[place]})
            for index, place in enumerate(places)
            for voice in (voices[index % len(voices)],)
        ]  # fmt: skip
        make.write("qbe", part, said)
        relevant = [
            (one.id, name) for one in said for name, text in texts.items() if f" {one.columns['text']} " in text
        ]
        kaldi.write_table(make.out / "qbe" / part / "relevant", relevant)


_TASKS: dict[str, Callable[[_Maker], None]] = {
    "pr": _recognition,
    "ks": _keywords,
    "sid": _speakers,
    "asv": _verification,
    "sd": _diarization,
    "ic": _intents,
    "sf": _slots,
    "er": _emotions,
    "qbe": _search,
    "ood": _foreign,
    "se": _enhancement,
    "ss": _separation,
    "st": _translation,
    "vc": _conversion,
}
