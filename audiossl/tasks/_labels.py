"""What several tasks ask of labels before anything is computed: `check_labels` of `nn.task.Task`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.data.audio import OVERSHOOT, AudioError, audio_info

if TYPE_CHECKING:
    from audiossl.data.manifest import Manifest


def check_texts(manifest: Manifest, column: str) -> None:
    """Raise ValueError where no utterance has a word, so that a score would be undefined."""
    if not any(text.strip() for text in manifest.column(column)):
        raise ValueError(f"{manifest.path / column}: no utterance has a word; give texts, or another directory")


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
