"""Speech translation on a frozen encoder: a small encoder-decoder writes the text of another language, character by character."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F

from audiossl.contracts import StepOutput
from audiossl.metrics.bleu import bleu
from audiossl.nn.bpe import BPE, load_vocabulary
from audiossl.nn.masking import valid_frames
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.task import Task
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks._labels import check_texts, text_doubts
from audiossl.tasks._token_beam import best_texts
from audiossl.tasks._translator import KeysValues, Memory, Sizes, Translator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

VOCABULARY = "vocabulary.json"
_STRIDE = 320  # at which the batches of the recipe, of seconds, are those published, of frames


class SpeechTranslation(Task):
    """The task ST of SUPERB-SG (Tsai et al., 2022, section 3): a transformer of three and three layers on the weighted layers, scored by BLEU.

    The loss is the mean over utterances of the label-smoothed cross-entropy of their tokens. Differs from the published code: characters are those of
    the training texts, where there a character model of sentencepiece also folds some (NFKC); and see `Translator`.
    """

    variant: ClassVar[str] = (
        "characters of the training texts, where some are folded (NFKC); after its peak the rate falls with the root of the step, "
        "where the published code's falls to a hundredth at once, for lack of a factor, and its scores come from that"
    )
    writes_text: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """The published sizes are those of fairseq's `s2t_transformer` with three layers each.

        column: file of the data directory with the translations. bpe_size: word pieces (extra `asr`); 0: characters, as published. conv_dim, conv_kernels: of
        convolutions of stride 2 with gated linear units. label_smoothing: share of the probability that goes to all other tokens. beam: texts that are
        followed; 1 is greedy. max_tokens: longer texts are ended. tokenizer: of sacrebleu.
        """

        column: str = "utt2translation"
        bpe_size: int = 0
        encoder_layers: int = 3
        decoder_layers: int = 3
        dim: int = 512
        ffn_dim: int = 2048
        num_heads: int = 8
        dropout: float = 0.1
        conv_dim: int = 1024
        conv_kernels: tuple[int, ...] = (5, 5)
        label_smoothing: float = 0.1
        beam: int = 20
        max_tokens: int = 400
        tokenizer: str = "13a"

        def __post_init__(self) -> None:
            least = min(
                self.encoder_layers, self.decoder_layers, self.ffn_dim, self.num_heads, self.beam, self.max_tokens
            )
            if least < 1 or not self.conv_kernels or min(self.conv_kernels) < 1 or self.bpe_size < 0:
                raise ValueError("task: numbers of layers, heads, beams and tokens, and sizes, must be at least 1")
            if self.dim < 2 or self.dim % 2 or self.conv_dim < 2 or self.conv_dim % 2:
                raise ValueError(f"task: dim {self.dim} and conv_dim {self.conv_dim} must be positive and even")
            if any(kernel % 2 == 0 for kernel in self.conv_kernels):
                raise ValueError(f"task.conv_kernels: {self.conv_kernels} must be odd")
            if not 0 <= self.dropout < 1 or not 0 <= self.label_smoothing < 1:
                raise ValueError(
                    f"task: dropout {self.dropout} and label_smoothing {self.label_smoothing} must be in [0, 1)"
                )

        @classmethod
        def tiny(cls) -> SpeechTranslation.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                column="text", encoder_layers=1, decoder_layers=2, dim=8, ffn_dim=6, num_heads=2, conv_dim=4,
                conv_kernels=(5, 3), beam=2, max_tokens=6,
            )  # fmt: skip

    metric: tuple[str, Literal["min", "max"]] = ("bleu", "max")

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary | BPE) -> None:
        super().__init__()
        self.config: SpeechTranslation.Config = config
        self.vocabulary = vocabulary
        self.needs = (config.column,)
        self.labels = TranslationLabels(vocabulary, config.column)
        self.weighted = WeightedLayers(num_layers)
        self.translator = Translator(
            encoder_dim,
            len(vocabulary),
            Sizes(config.dim, config.ffn_dim, config.num_heads, config.dropout),
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            conv_dim=config.conv_dim,
            conv_kernels=config.conv_kernels,
            mark=Vocabulary.blank_index,
        )

    @classmethod
    def variant_at(cls, stride: int) -> str:
        """`variant` on an upstream with this stride, samples."""
        if stride == _STRIDE:
            return cls.variant
        batch, longest = (frames * stride / 16_000 for frames in (10_000, 6_000))
        return f"{cls.variant}; at this stride published batches are of {batch:g} s, and recordings are cut at {longest:g} s"

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> SpeechTranslation:
        """Build it for the tokens of a data directory; ValueError where BLEU cannot be measured here."""
        bleu(["a"], ["a"], tokenizer=config.tokenizer)
        vocabulary = (
            BPE.from_manifest(manifest, config.column, config.bpe_size)
            if config.bpe_size
            else Vocabulary.from_manifest(manifest, config.column, "characters")
        )
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:
        """Raise ValueError where no utterance has a word, so that BLEU would say nothing."""
        check_texts(manifest, config.column)

    def doubts(self, manifest: Manifest) -> list[str]:
        """Say where training lacks tokens of development texts."""
        return text_doubts(self, manifest)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> SpeechTranslation:
        """Build it for the tokens that an experiment was trained with."""
        return cls(encoder.dim, encoder.num_layers, config, load_vocabulary(experiment / VOCABULARY))

    def save_labels(self, experiment: Path) -> None:
        """Write the vocabulary into the experiment folder."""
        self.vocabulary.save(experiment / VOCABULARY)

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.weighted.shares()

    def logits(self, output: EncoderOutput, tokens: Tensor) -> Tensor:
        """Scores of what follows each token: (batch, token, vocabulary). tokens: (batch, token), the mark first."""
        scores: Tensor = self.translator(self._memory(output), tokens)
        return scores

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum over utterances of the cross-entropy of their tokens and of the mark that ends them, and their number."""
        lengths = batch["tokens_lengths"]
        own = batch["tokens"].masked_fill(~valid_frames(lengths, batch["tokens"].shape[1]), self.translator.mark)
        logits = self.logits(output, F.pad(own, (1, 0), value=self.translator.mark))
        target = F.pad(own, (0, 1), value=self.translator.mark)
        target = target.masked_fill(~valid_frames(lengths + 1, target.shape[1]), -1)
        # torch smooths towards all tokens, the true one among them; at this share the others get `label_smoothing` together, as published.
        share = self.config.label_smoothing * logits.shape[2] / (logits.shape[2] - 1)
        total = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=-1, reduction="sum", label_smoothing=share
        )
        right = (logits.argmax(dim=2) == target) & (target >= 0)
        utterances = torch.full_like(total, len(target)).detach()
        tokens = (lengths + 1).sum()
        return StepOutput(
            total, utterances, {"loss_per_token": (total.detach(), tokens), "token_accuracy": (right.sum(), tokens)}
        )

    def predict(self, output: EncoderOutput) -> list[str]:
        """Read out by beam search."""
        memory, config = self._memory(output), self.config

        def step(tokens: Tensor, past: list[KeysValues] | None) -> tuple[Tensor, list[KeysValues]]:
            logits, now = self.translator.step(memory, tokens, past)
            return logits.float().log_softmax(dim=1), now

        mark, device = self.translator.mark, memory.mask.device
        batch = len(memory.mask)
        texts = best_texts(step, batch, width=config.beam, max_tokens=config.max_tokens, mark=mark, device=device)
        return [self.vocabulary.decode(tokens) for tokens in texts]

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """BLEU."""
        return {"bleu": bleu(predictions, references, tokenizer=self.config.tokenizer)}

    def _memory(self, output: EncoderOutput) -> Memory:
        return self.translator.encode(self.weighted(output), output.lengths.to(output.layers[0].device))


@dataclass(frozen=True)
class TranslationLabels:
    """Text to tokens, in the loader's workers."""

    vocabulary: Vocabulary | BPE
    column: str

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """tokens: (label,) int64, without the mark that ends them."""
        return {"tokens": self.vocabulary.encode(utterance.columns[self.column])}
