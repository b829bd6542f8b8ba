"""Phone error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._edits import error_rate

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def phone_error_rate(predictions: Sequence[str], references: Sequence[str], *, ignored: Collection[str] = ()) -> float:
    """Phone error rate in percent: the edits of all utterances over the phones of all references.

    Both: phones of each utterance, with whitespace between them. AH0 and AH1 are two phones, and SIL is one, as in SUPERB; phones in
    `ignored` are taken out of both sides first. ValueError if the two are not as many, or if no reference holds a phone.
    """
    predicted, wanted = (
        [" ".join(phone for phone in text.split() if phone not in ignored) for text in texts]
        for texts in (predictions, references)
    )
    if not any(wanted):
        raise ValueError(f"{len(wanted)} references hold no phone, so their error rate is undefined; give references")
    return error_rate(predicted, wanted, "words")
