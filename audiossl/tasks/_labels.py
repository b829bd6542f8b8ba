"""What several tasks ask of labels before anything is computed: `check_labels` and `doubts` of `nn.task.Task`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audiossl.data.audio import OVERSHOOT, AudioError, audio_info
from audiossl.data.excerpts import spread
from audiossl.nn.known_tokens import check_known

if TYPE_CHECKING:
    from audiossl.data.manifest import Manifest


def check_texts(manifest: Manifest, column: str) -> None:
    """Raise ValueError where no utterance has a word, so that a score would be undefined."""
    if not any(text.strip() for text in manifest.column(column)):
        raise ValueError(f"{manifest.path / column}: no utterance has a word; give texts, or another directory")


def text_doubts(task: Any, manifest: Manifest) -> list[str]:
    """A line where training lacks many of the tokens that some utterances have, evenly spread ones; ValueError where it lacks all for their case."""
    names = [manifest.ids[index] for index in spread(len(manifest))]
    said = check_known(task.vocabulary, task.references(names, manifest), manifest.path / task.config.column)
    return [f"warning: {said}"] if said else []


def check_recordings(manifest: Manifest, column: str, *, as_long: bool) -> None:
    """Raise ValueError for a recording that a column names and that cannot be used, by its header. as_long: as its utterance, which it must be."""
    for name, path, seconds in zip(manifest.ids, manifest.column(column), manifest.durations.tolist(), strict=True):
        place = f"{manifest.path / column}: {name}"
        try:
            found = audio_info(path).duration
        except AudioError as error:
            raise ValueError(f"{place}: {error}") from None
        if as_long and abs(found - seconds) > 2 * OVERSHOOT:  # `utt2dur` is often rounded to hundredths
            raise ValueError(f"{place}: {path} lasts {found:.2f} s, its utterance {seconds:.2f} s; give one as long")
