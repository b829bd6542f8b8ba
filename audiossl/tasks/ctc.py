"""Speech recognition by CTC: a linear layer on an encoder writes characters, word pieces, words or phones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from torch import nn

from audiossl.data.kaldi import TEXT
from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.nn.bpe import BPE
from audiossl.nn.masking import valid_frames
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks._ctc_head import CTCHead, error_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from audiossl.contracts import EncoderOutput
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder


class CTC(CTCHead):
    """Softmax layer over the tokens of a vocabulary, trained and read out by CTC (Graves et al., 2006).

    Its weights start as torch's linear layers do; fairseq's as Xavier's.
    """

    per_token: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Config:
        """The published recipe: characters, one linear layer on the last layer (Baevski et al., 2020, section 3.3).

        tokens: `bpe` are word pieces, `bpe_size` of them, learnt from the training text (extra `asr`). column: file of the data
        directory that holds the text; "" is `utt2phones` for phones, else `text`. layers: the last one, or a learned weighted sum of all, the input
        of the first block included.
        hidden_dim: units of a GELU layer in front of the output; 0 is none. dropout: in front of each linear layer.
        """

        tokens: Literal["characters", "bpe", "words", "phones"] = "characters"
        bpe_size: int = 0
        column: str = ""
        layers: Literal["last", "weighted"] = "last"
        hidden_dim: int = 0
        dropout: float = 0.0

        def __post_init__(self) -> None:
            if not self.column:  # so that an experiment's config.toml names the file
                object.__setattr__(self, "column", "utt2phones" if self.tokens == "phones" else TEXT)
            if self.hidden_dim < 0 or not 0 <= self.dropout < 1:
                raise ValueError(f"task: hidden_dim {self.hidden_dim} or dropout {self.dropout} is out of range")
            if self.bpe_size < 0 or (self.bpe_size > 0) != (self.tokens == "bpe"):
                raise ValueError(
                    f"task.bpe_size: {self.bpe_size} with tokens {self.tokens!r}; give it with 'bpe', such as 500, and not otherwise"
                )

        @classmethod
        def tiny(cls) -> CTC.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(layers="weighted", hidden_dim=8, dropout=0.1)

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary | BPE) -> None:
        super().__init__(num_layers, config, vocabulary)
        self.config: CTC.Config = config
        # What `predict` reads with instead of greedily: from log probabilities, (batch, frame, token), and lengths to texts.
        self.decoder: Callable[[Tensor, Tensor], list[str]] | None = None
        # What chooses the best checkpoint: a key of `score`.
        self.metric: tuple[str, Literal["min", "max"]] = ("per" if config.tokens == "phones" else "wer", "min")
        if config.layers == "last":
            self.weighted = _LastLayer()  # type: ignore[assignment]  # called alike
        self.head = nn.Sequential(nn.Dropout(config.dropout))
        if config.hidden_dim:
            self.head.extend([nn.Linear(encoder_dim, config.hidden_dim), nn.GELU(), nn.Dropout(config.dropout)])
        self.head.append(nn.Linear(config.hidden_dim or encoder_dim, len(vocabulary)))

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it for the tokens of a data directory; ValueError if its text holds none."""
        vocabulary: Vocabulary | BPE
        if config.tokens == "bpe":
            vocabulary = BPE.from_manifest(manifest, config.column, config.bpe_size)
        else:
            vocabulary = Vocabulary.from_manifest(manifest, config.column, config.tokens)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    def tokens(self, features: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002 - frames are independent of one another
        """Scores of the tokens, (batch, frame, token)."""
        scores: Tensor = self.head(features)
        return scores

    def measured(self, logits: Tensor, lengths: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Share of the frames that are read as blanks."""
        best = logits.detach().argmax(dim=2)
        blanks = (best == Vocabulary.blank_index) & valid_frames(lengths, best.shape[1])
        return {"blank_frames": (blanks.sum(), lengths.sum())}

    def predict(self, output: EncoderOutput) -> list[str]:
        """Read out greedily, the best token of each frame, repetitions merged, then blanks dropped; or with `decoder`."""
        return self.read(self.logits(output), output.lengths)

    def read(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """As `predict`, from (batch, frame, token) scores and (batch,) frames."""
        if self.decoder is not None:
            return self.decoder(logits.float().log_softmax(dim=2), lengths)
        return self.greedy(logits, lengths)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Error rates in percent: `per` of phones, else `wer` and `cer`."""
        if self.config.tokens == "phones":
            return {"per": word_error_rate(predictions, references)}
        return error_rates(predictions, references)


class _LastLayer(nn.Module):
    """Stands for `WeightedLayers`, without weights."""

    def forward(self, output: EncoderOutput) -> Tensor:
        """Return (batch, frame, dim)."""
        return output.layers[-1]

    def shares(self) -> None:
        """There are none."""
