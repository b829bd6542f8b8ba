"""Search a folder of recordings for words, with embeddings of words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from audiossl.cli._device import chosen_device
from audiossl.cli._printed import answer, say
from audiossl.cli.main import MisuseError
from audiossl.files import require_new, require_same, whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(
    words: Positional[tuple[str, ...]],
    *,
    model: str,
    recordings: Path,
    lexicon: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Search a folder of recordings for words, with embeddings of words.

    Prints `score word start end recording` lines, the surest first. `--search.threshold 0.7`, `--search.top 50`, `--search.durations [0.3,0.6]`, `--search.hop` and
    `--search.piece` change the search. A word that training did not have needs its symbols: its letters are known, its phones come from a lexicon.

    Example: audiossl search seven lamp --model exp/words --recordings recordings --lexicon lexicon.txt

    Args:
        words: words to search for.
        model: experiment of `audiossl finetune word_embedding`.
        recordings: folder of audio files, or one file.
        lexicon: lines `word phone phone ...`, for words that training did not have.
        out: write the lines there too.
        overwrite: replace other lines that `out` holds.
        device: auto, cpu, cuda or cuda:N.
        json: print the hits as a JSON list.
    """
    from audiossl.config import build
    from audiossl.diagnostics.word_search import SearchConfig, search
    from audiossl.train.run_finetune import load_finetuned

    if not words:
        raise MisuseError("audiossl search: no word is given; name at least one")
    if overwrite and out is None:
        raise MisuseError("audiossl search: --overwrite goes with --out; add it")
    strange = next((name for name in overrides or {} if name != "search"), None)
    if strange is not None:
        raise MisuseError(f"--{strange}: unknown table; did you mean 'search'?")
    config = build(SearchConfig, (overrides or {}).get("search", {}), "search")
    if out is not None:
        require_new(out, overwrite=True)  # the same lines may be there
    files = _files(recordings)
    module, _ = load_finetuned(model)
    if not hasattr(module.task, "embed_words"):
        raise ValueError(f"{model}: embeds no words; give an experiment of `audiossl finetune word_embedding`")
    chosen = chosen_device(device)
    module.to(chosen)
    symbols = _symbols(words, module.task, lexicon)
    bad: list[str] = []
    hits = search(module.encoder, module.task, symbols, files, config, device=chosen, on_bad=bad.append)
    lines = [f"{hit.score:.3f} {hit.word} {hit.start:.2f} {hit.end:.2f} {hit.recording}" for hit in hits]
    answer([hit._asdict() for hit in hits], "\n".join(lines), json=json)
    if out is not None:
        with whole_file(out) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            if not overwrite:
                require_same(out, partial)
    silent = [word for word in symbols if all(hit.word != word for hit in hits)]
    if silent:
        say(f"not heard above {config.threshold:g}: {' '.join(silent)}")
    for line in bad:
        say(line)
    return 1 if bad else 0


def _files(recordings: Path) -> list[Path]:
    from audiossl.data.audio import SUFFIXES

    if recordings.is_file():
        return [recordings]
    if not recordings.is_dir():
        raise ValueError(f"{recordings}: no such file or folder; give recordings to search")
    found = sorted(path for path in recordings.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{recordings}: no audio file is in or below it; give another folder")
    return found


def _symbols(words: Sequence[str], task: Any, lexicon: Path | None) -> dict[str, tuple[str, ...]]:
    """Symbols of each word: those of training, its letters for a model of letters, or those of the lexicon."""
    from audiossl.nn.lexicon import Lexicon

    listed = Lexicon.read([str(lexicon)]).phones if lexicon is not None else {}
    found = {}
    for word in dict.fromkeys(words):
        if word in task.words:
            found[word] = task.words[word]
        elif task.config.symbols == "letters":
            found[word] = tuple(word)
        elif word in listed:
            found[word] = tuple(listed[word].split())
        else:
            raise ValueError(f"{word!r}: training did not have this word; write its phones into a file for --lexicon")
        strange = [symbol for symbol in found[word] if symbol not in task.symbols]
        told = f"{word!r}: {' '.join(strange)}: training did not have these; check spelling and lexicon"
        if len(strange) == len(found[word]):
            raise ValueError(told)
        if strange:
            say(told)
    return found
