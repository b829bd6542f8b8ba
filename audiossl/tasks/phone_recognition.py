"""Phone recognition on a frozen encoder: two linear layers and CTC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from torch import nn

from audiossl.metrics.phone_error_rate import phone_error_rate
from audiossl.nn.lexicon import Lexicon
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks._ctc_head import VOCABULARY, CTCHead, TextLabels
from audiossl.tasks._variants import BY_TEXT, CUT_BATCHES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from audiossl.contracts import Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
PHONES = ("SIL", "SPN", *sorted([*_CONSONANTS, *(vowel + stress for vowel in _VOWELS for stress in "012")]))
"""What LibriSpeech's lexicon has, with silence and noise, which no text has: the published list of 71."""


class PhoneRecognition(CTCHead):
    """The task PR of SUPERB (Yang et al., 2021, section 3.2): stressed phones, AH0 and AH1 are two."""

    variant: ClassVar[str] = f"{BY_TEXT}; {CUT_BATCHES}"

    @dataclass(frozen=True)
    class Config:
        """column: file of the data directory with the phones of each utterance or, where `lexicon` names files, with its words.

        lexicon: files of lines `word phone phone ...`, a word's first pronunciation counts. vocabulary: the published 71 phones, those of LibriSpeech's lexicon with
        SIL and SPN, or those of the training data, for other languages and sets of phones. projector_dim: of the first linear layer.
        """

        column: str = "utt2phones"
        lexicon: tuple[str, ...] = ()
        vocabulary: Literal["published", "training"] = "published"
        projector_dim: int = 256

        def __post_init__(self) -> None:
            if self.projector_dim < 1:
                raise ValueError(f"task.projector_dim: {self.projector_dim} is not positive")

        @classmethod
        def tiny(cls) -> PhoneRecognition.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(column="text", vocabulary="training", projector_dim=4)

    kind = "phones"
    metric: tuple[str, Literal["min", "max"]] = ("per", "min")

    def __init__(
        self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary, lexicon: Lexicon | None
    ) -> None:
        super().__init__(num_layers, config, vocabulary)
        self.config: PhoneRecognition.Config = config
        self.lexicon = lexicon
        if lexicon is not None:
            self.labels = LexiconLabels(vocabulary, config.column, lexicon)
        self.projector = nn.Linear(encoder_dim, config.projector_dim)
        self.classifier = nn.Linear(config.projector_dim, len(vocabulary))

    cures: ClassVar[dict[str, str]] = {
        "utt2phones": "`audiossl prep librispeech --prep.lexicon FILES` writes phones, --task.lexicon FILES --task.column text looks words up"
    }

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """Phones, or words and the lexicon's files."""
        return (config.column, *(str(Path(path).absolute()) for path in config.lexicon))

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:
        """Raise ValueError for a word that the lexicon lacks, and where there is no word at all."""
        super().check_labels(config, manifest)
        if config.lexicon:
            lexicon = Lexicon.read(config.lexicon)
            for text in manifest.column(config.column):
                lexicon.phones_of(text)

    @classmethod
    def looked_up(cls, config: Config, manifest: Manifest) -> list[str]:
        """Phones of the words of a directory, where there is a lexicon."""
        if not config.lexicon:
            return []
        lexicon, column = Lexicon.read(config.lexicon), manifest.column(config.column)
        words = {word for index in range(len(manifest)) if column.has(index) for word in column[index].split()}
        return [lexicon.phones.get(word, "") for word in sorted(words)]

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it for the phones of a data directory; words that the lexicon lacks are left to the labels to name."""
        column = manifest.column(config.column)
        texts: Iterable[str] = (column[index] for index in range(len(manifest)))
        lexicon = Lexicon.read(config.lexicon) if config.lexicon else None
        if lexicon is not None:
            texts = [lexicon.phones.get(word, "") for word in sorted({word for text in texts for word in text.split()})]
        if config.vocabulary == "published":
            vocabulary = Vocabulary.of(PHONES, cls.kind, manifest, config.column, texts)
            return cls(encoder.dim, encoder.num_layers, config, vocabulary, lexicon)
        try:
            vocabulary = Vocabulary.from_texts(texts, cls.kind, end=True)
        except ValueError as error:
            place = ", by ".join(
                [f"{manifest.path}/{config.column}", *([", ".join(config.lexicon)] if lexicon else [])]
            )
            raise ValueError(f"{place}: {error}") from error
        return cls(encoder.dim, encoder.num_layers, config, vocabulary, lexicon)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> Self:
        """Build it for the phones that an experiment was trained with."""
        lexicon = Lexicon.read(config.lexicon) if config.lexicon else None
        return cls(encoder.dim, encoder.num_layers, config, Vocabulary.load(experiment / VOCABULARY), lexicon)

    def tokens(self, features: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002 - frames are independent of one another
        """Scores of the tokens, (batch, frame, token)."""
        scores: Tensor = self.classifier(self.projector(features))
        return scores

    def references(self, utterances: Iterable[str], manifest: Manifest) -> list[str]:
        """Phones of these utterances, looked up where there is a lexicon."""
        found = super().references(utterances, manifest)
        return found if self.lexicon is None else [self.lexicon.phones_of(text) for text in found]

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Phone error rate in percent."""
        return {"per": phone_error_rate(predictions, references)}


@dataclass(frozen=True)
class LexiconLabels(TextLabels):
    """Words to phones to tokens, in the loader's workers."""

    lexicon: Lexicon

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """tokens: (label,) int64. text: the phones. ValueError for a word that the lexicon lacks."""
        phones = self.lexicon.phones_of(utterance.columns[self.column])
        return {"tokens": self.vocabulary.encode(phones), "text": phones}
