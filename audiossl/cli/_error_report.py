"""What `audiossl errors` prints and writes: lines of rates, utterances in columns, tables of speakers and confusions."""

from __future__ import annotations

import unicodedata
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from audiossl.files import require_folder, whole_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from audiossl.metrics._edits import Edits, Pair, Unit
    from audiossl.metrics._error_tally import ErrorTally, Group

UTTERANCES, SPEAKERS, CONFUSIONS = "per_utterance.txt", "per_speaker.tsv", "confusions.tsv"
_MOST = 10  # confusions of each kind that are printed
_GAP, _SPACE = "*", "_"


def require_place(out: Path, *, overwrite: bool) -> None:
    """Raise ValueError, before work, where the files could not be written to the folder `out` or would replace others."""
    require_folder(out)
    for name in (UTTERANCES, SPEAKERS, CONFUSIONS):
        if (out / name).is_dir():
            raise ValueError(f"{out / name}: is a folder; choose another --out")
        if (out / name).exists() and not overwrite:
            raise ValueError(f"{out / name}: exists already; choose another --out, or --overwrite")


@contextmanager
def error_files(
    out: Path, tally: ErrorTally, unit: Unit, *, speakers: bool
) -> Iterator[Callable[[str, Sequence[Pair], Edits], int]]:
    """Give what writes one utterance: name, alignment, counts; the tables of `tally` come at the end.

    speakers: whether there is a table of them; of an earlier run none is left then. If anything goes wrong no file is written, nor is a folder left that was made for them.
    """
    names = [UTTERANCES, CONFUSIONS] + [SPEAKERS] * speakers
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with whole_set([out / name for name in names], []) as (partials, _):
            with partials[0].open("w", encoding="utf-8", newline="\n") as file:
                yield lambda *utterance: file.write(utterance_lines(*utterance))
            _write_rows(partials[1], _confusions(tally))
            if speakers:
                _write_rows(partials[2], _speakers(tally, unit))
            else:
                (out / SPEAKERS).unlink(missing_ok=True)
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def spoken(tally: ErrorTally, unit: Unit) -> str:
    """Lay out for the terminal: the rate of all, speakers from the worst on, the most frequent confusions."""
    overall = tally.overall
    wrong = 100.0 * overall.wrong / overall.utterances
    lines = [
        f"{rate_name(unit)} {_told(overall.edits)}; {wrong:.1f} % of {overall.utterances} utterances have errors",
        *(f"speaker {name} {_told(group.edits)}" for name, group in tally.speakers()),
    ]
    substituted = [f"{shown(a)} > {shown(b)} {n}" for a, b, n in tally.substitutions()[:_MOST]]
    deleted = [f"{shown(token)} {n}" for token, n in tally.deletions()[:_MOST]]
    inserted = [f"{shown(token)} {n}" for token, n in tally.insertions()[:_MOST]]
    kinds = (("substituted", substituted), ("deleted", deleted), ("inserted", inserted))
    return "\n".join([*lines, *(f"{kind}: {', '.join(rows)}" for kind, rows in kinds if rows)])


def facts(tally: ErrorTally, unit: Unit) -> dict[str, Any]:
    """Return all of it for JSON: rates in percent, None where the references hold no unit; spaces among characters are spaces."""
    return {
        **_numbers(tally.overall, unit),
        "speakers": {name: _numbers(group, unit) for name, group in tally.speakers()},
        "confusions": {
            "substitutions": tally.substitutions(),
            "deletions": tally.deletions(),
            "insertions": tally.insertions(),
        },
    }


def rate_name(unit: Unit) -> str:
    """What the rate is called."""
    return "wer" if unit == "words" else "cer"


def shown(written: str | None) -> str:
    """A unit where white space parts columns: `*` for none, `_` for a space among characters."""
    return _GAP if written is None else _SPACE if written == " " else written


def utterance_lines(utterance: str, pairs: Sequence[Pair], edits: Edits) -> str:
    """Lay out an utterance as Kaldi's wer_per_utt_details.pl does.

    Reference, hypothesis and operation (C correct, S substituted, D deleted, I inserted) stand below one another, `***` as wide as its neighbour for a gap; then the
    numbers of C, S, I and D.
    """
    columns = [_column(wanted, predicted) for wanted, predicted in pairs]
    rows = zip(*columns, strict=True) if columns else ([], [], [])
    laid = [
        " ".join([utterance, f"{name:<5}", *row]).rstrip() for name, row in zip(("ref", "hyp", "op"), rows, strict=True)
    ]
    counts = f"{edits.correct} {edits.substitutions} {edits.insertions} {edits.deletions}"
    return "\n".join([*laid, f"{utterance} #csid {counts}"]) + "\n"


def _speakers(tally: ErrorTally, unit: Unit) -> Iterator[Sequence[Any]]:
    """Yield the head and a row for each speaker, the worst first; the rate is in percent, empty where the references hold no unit."""
    yield ["speaker", *_numbers(tally.overall, unit)]
    for name, group in tally.speakers():
        rate, *counts = _numbers(group, unit).values()
        yield [name, "" if rate is None else f"{rate:.2f}", *counts]


def _confusions(tally: ErrorTally) -> Iterator[Sequence[Any]]:
    """Yield the head and a row for each pair of units that are not the same, the most frequent first within each kind."""
    yield ["kind", "reference", "hypothesis", "times"]
    yield from (["substitution", shown(a), shown(b), n] for a, b, n in tally.substitutions())
    yield from (["deletion", shown(token), _GAP, n] for token, n in tally.deletions())
    yield from (["insertion", _GAP, shown(token), n] for token, n in tally.insertions())


def _write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines("\t".join(map(str, row)) + "\n" for row in rows)


def _told(edits: Edits) -> str:
    rate = "-" if edits.rate is None else f"{edits.rate:.2f} %"
    kinds = f"{edits.insertions} inserted, {edits.deletions} deleted, {edits.substitutions} substituted"
    return f"{rate} ({edits.errors} of {edits.total}: {kinds})"


def _numbers(group: Group, unit: Unit) -> dict[str, Any]:
    edits = group.edits
    return {
        rate_name(unit): edits.rate,
        "errors": edits.errors,
        unit: edits.total,
        "correct": edits.correct,
        "substitutions": edits.substitutions,
        "deletions": edits.deletions,
        "insertions": edits.insertions,
        "utterances": group.utterances,
        "utterances_with_errors": group.wrong,
    }


def _column(wanted: str | None, predicted: str | None) -> tuple[str, str, str]:
    operation = "I" if wanted is None else "D" if predicted is None else "C" if wanted == predicted else "S"
    texts = [None if token is None else shown(token) for token in (wanted, predicted)]
    width = max(_width(text) for text in texts if text is not None)
    reference, hypothesis = (_GAP * width if text is None else text + " " * (width - _width(text)) for text in texts)
    return reference, hypothesis, operation.ljust(width)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: none for marks on letters, two for wide characters; at least one."""
    if text.isascii():
        return len(text)
    marks = {"Mn", "Me", "Cf"}
    wide = sum(
        0 if unicodedata.category(c) in marks else 1 + (unicodedata.east_asian_width(c) in {"W", "F"}) for c in text
    )
    return max(1, wide)
