"""Speech recognition on a frozen encoder: characters by CTC on a recurrent head, read out greedily and, on test, with a language model too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.nn.task import text_lines
from audiossl.nn.vocabulary import BOUNDARY, PAD, Vocabulary
from audiossl.tasks._ctc_head import RecurrentConfig, RecurrentCTC, TextLabels, error_rates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from audiossl.contracts import EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.lm_beam import LMBeam
    from audiossl.nn.ssl_encoder import SSLEncoder

CHARACTERS = (PAD, *sorted(f"ABCDEFGHIJKLMNOPQRSTUVWXYZ'{BOUNDARY}"))
"""The published list: with `<blank>`, `<unk>` and `<eos>` 32 tokens."""


@dataclass(frozen=True)
class Decoding:
    """Words by beam search with an n-gram model (extra `lm`): the published numbers, for LibriSpeech's official 4-gram.

    lm: of words, an ARPA file or KenLM's binary. lexicon: lines `word token token ...`, only these words are written. lm_weight: of the decimal logarithm of
    its probability. word_score: added for each word. beam: hypotheses that are kept.
    """

    lm: str
    lexicon: str
    lm_weight: float = 2.0
    word_score: float = -1.0
    beam: int = 5

    @property
    def files(self) -> tuple[str, str]:
        """Absolute paths."""
        return str(Path(self.lm).absolute()), str(Path(self.lexicon).absolute())

    def reader(self, vocabulary: Vocabulary) -> LMBeam:
        """Load the files; ValueError where they do not fit the vocabulary."""
        from audiossl.nn.lm_beam import LMBeam

        lm, lexicon = map(Path, self.files)
        scales = {"lm_weight": self.lm_weight, "word_score": self.word_score}
        return LMBeam(vocabulary, beam=self.beam, lm=lm, lexicon=lexicon, **scales)


class SpeechRecognition(RecurrentCTC):
    """The task ASR of SUPERB (Yang et al., 2021, section 3.2).

    Dev is read greedily. With `decoding` the head that dev chose is scored on test both ways: `wer` and `cer`, and `wer_lm`.
    """

    superb_only: ClassVar[tuple[str, ...]] = ("decoding",)
    variant: ClassVar[str] = (
        "SpecAugment masks up to its full widths, and no padding; batches end at superb.batch_seconds of padded audio"
    )

    @dataclass(frozen=True)
    class Config(RecurrentConfig):
        """Texts come from `text`.

        vocabulary: the published 28 characters, and a word boundary at the end of each text too; or the characters of the training texts, without.
        decoding: how `audiossl superb` reads test a second time; None: not.
        """

        column: str = "text"
        vocabulary: Literal["published", "training"] = "published"
        decoding: Decoding | None = None

        @classmethod
        def tiny(cls) -> SpeechRecognition.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                vocabulary="training", projector_dim=4, hidden_dim=3, time_warp=1, time_width=3, frequency_width=3
            )

    kind = "characters"
    metric: tuple[str, Literal["min", "max"]] = ("wer", "min")

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(encoder_dim, num_layers, config, vocabulary)
        self.beam = None if config.decoding is None else config.decoding.reader(vocabulary)
        if config.vocabulary == "published":
            self.labels = BoundedLabels(vocabulary, config.column)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it; ValueError for a training text with a character that the published list lacks."""
        if config.vocabulary == "training":
            return super().from_data(encoder, config, manifest)
        column = manifest.column(config.column)
        texts = (column[index] for index in range(len(manifest)))
        vocabulary = Vocabulary.of(CHARACTERS, cls.kind, manifest, config.column, texts)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:
        """Texts and, of test, the files of `decoding`."""
        return (config.column, *(config.decoding.files if config.decoding is not None and part == "test" else ()))

    def predict(self, output: EncoderOutput) -> list[str] | list[tuple[str, str]]:  # type: ignore[override]
        """Read out greedily; the head that dev chose, with `decoding`: pairs (greedily, by beam search)."""
        if self.beam is None or not self.final:
            return super().predict(output)
        logits, lengths = self.logits(output), self.num_scored(output.lengths)
        return list(zip(self.greedy(logits, lengths), self.beam(logits.log_softmax(dim=2), lengths), strict=True))

    def score(self, predictions: Sequence[Any], references: Sequence[str]) -> dict[str, float]:
        """Word and character error rate in percent; `wer_lm`, by beam search, where predictions are pairs."""
        if self.beam is not None and self.final:
            greedily, by_beam = ([pair[k] for pair in predictions] for k in (0, 1))
            return {**error_rates(greedily, references), "wer_lm": word_error_rate(by_beam, references)}
        return error_rates(predictions, references)

    def answers(
        self, said: Mapping[str, Any], manifest: Manifest, settings: Mapping[str, Any]
    ) -> dict[str, Iterable[str]]:
        """Texts and references; `lm.hyp` by beam search, where predictions are pairs."""
        if self.beam is None or not self.final:
            return super().answers(said, manifest, settings)
        greedily, by_beam = ({name: pair[k] for name, pair in said.items()} for k in (0, 1))
        return {**super().answers(greedily, manifest, settings), "lm.hyp": text_lines(by_beam)}


@dataclass(frozen=True)
class BoundedLabels(TextLabels):
    """Text to tokens, with a word boundary behind the last word too, in the loader's workers."""

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """tokens: (label,) int64. text: as written, spaces tidied."""
        labels = super().__call__(utterance)
        boundary = self.vocabulary.tokens.index(BOUNDARY)
        return {**labels, "tokens": np.insert(labels["tokens"], -1, boundary)}  # before `<eos>`
