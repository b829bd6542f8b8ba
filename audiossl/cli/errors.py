"""Show where a recogniser errs: by utterance, by speaker, and what it takes for what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from audiossl.cli._error_report import error_files, facts, require_place, spoken
from audiossl.cli._printed import answer, say
from audiossl.cli.main import MisuseError
from audiossl.data.kaldi import TEXT, UTT2SPK, read_table
from audiossl.metrics._edits import Unit, align
from audiossl.metrics._error_tally import ErrorTally

Mode = Literal["strict", "present", "all"]


def main(
    ref: Positional[Path],
    hyp: Positional[Path],
    *,
    utt2spk: Path | None = None,
    characters: bool = False,
    mode: Mode = "strict",
    out: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Show where a recogniser errs: by utterance, by speaker, and what it takes for what.

    Prints the error rate, a line for each speaker, the worst first, and the most frequent confusions. What white space separates counts as a word: phones and units do too.

    Example: audiossl errors data/test hyp.txt --out exp/asr/errors

    Args:
        ref: data directory, whose `text` is taken, or a file of `utterance word word ...` lines.
        hyp: such a file of what was recognised, as `audiossl transcribe --out` writes.
        utt2spk: `utterance speaker` lines (default: utt2spk of the data directory, where it has one).
        characters: count characters, a space between words as one of them, instead of words.
        mode: what utterances do that one side lacks, as in Kaldi's compute-wer: strict: an error; present: are left out; all: those that the hypotheses lack count as empty ones.
        out: folder for per_utterance.txt, per_speaker.tsv and confusions.tsv.
        overwrite: replace these if they are there already.
        json: print all of it as one JSON object.
    """
    if overwrite and out is None:
        raise MisuseError("audiossl errors: --overwrite goes with --out; add it")
    if out is not None:
        require_place(out, overwrite=overwrite)
    unit: Unit = "characters" if characters else "words"
    references = ref / TEXT if ref.is_dir() else ref
    if utt2spk is None and (ref / UTT2SPK).is_file():
        utt2spk = ref / UTT2SPK
    speakers = None if utt2spk is None else _rows(utt2spk)
    tally = ErrorTally()
    files = nullcontext() if out is None else error_files(out, tally, unit, speakers=speakers is not None)
    with files as write:
        for utterance, reference, hypothesis in _matched(references, hyp, mode):
            speaker = None if speakers is None else speakers.get(utterance, "")
            if speaker == "":
                raise ValueError(f"{utt2spk}: no speaker for utterance {utterance!r}; add a line for it")
            pairs = align(hypothesis, reference, unit)
            edits = tally.add(pairs, speaker)
            if write is not None:
                write(utterance, pairs, edits)
        if not tally.overall.edits.total:
            raise ValueError(f"{references}: no {unit} are counted, so their error rate is undefined; give references")
    answer(facts(tally, unit), spoken(tally, unit), json=json)
    return 0


def _matched(references: Path, hypotheses: Path, mode: Mode) -> Iterator[tuple[str, str, str]]:
    """Yield (utterance, reference, hypothesis) in the order of the references; say, or with "strict" raise as ValueError, what one of the files lacks."""
    texts = _rows(hypotheses)
    seen: set[str] = set()
    missing = []
    for number, utterance, reference in read_table(references):
        if utterance in seen:
            raise _twice(references, number, utterance)
        seen.add(utterance)
        if utterance not in texts:
            missing.append(utterance)
        if utterance in texts or mode == "all":
            yield utterance, reference, texts.get(utterance, "")
    if not seen:
        raise ValueError(f"{references}: is empty; give references")
    if mode == "present" and len(missing) == len(seen):
        raise ValueError(
            f"{hypotheses}: has no utterance of {references}, whose first is {missing[0]!r}; give its hypotheses"
        )
    strange = [utterance for utterance in texts if utterance not in seen]
    if missing:
        fault = (
            f"{hypotheses}: lacks {len(missing)} of {len(seen)} utterances of {references}, the first is {missing[0]!r}"
        )
        if mode == "strict":
            raise ValueError(
                f"{fault}; add them, or --mode present to leave them out, --mode all to count them as empty"
            )
        say(f"{fault}; they {'are left out' if mode == 'present' else 'count as empty'}")
    if strange:
        fault = f"{hypotheses}: has {len(strange)} utterances that {references} lacks, the first is {strange[0]!r}"
        if mode == "strict":
            raise ValueError(f"{fault}; add them there, or --mode present to leave them out")
        say(f"{fault}; they are left out")


def _rows(path: Path) -> dict[str, str]:
    """Read a table; ValueError where a key comes twice."""
    rows: dict[str, str] = {}
    for number, key, value in read_table(path):
        if key in rows:
            raise _twice(path, number, key)
        rows[key] = value
    return rows


def _twice(path: Path, number: int, key: str) -> ValueError:
    return ValueError(f"{path}:{number}: {key!r} comes twice; remove one of its lines")
