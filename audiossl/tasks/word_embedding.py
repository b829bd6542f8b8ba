"""Acoustic-phonetic word embeddings: a spoken word and its phones meet in one space."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch

from audiossl.contracts import StepOutput
from audiossl.data.alignments import read_phones
from audiossl.data.json_files import read_json_table, write_json
from audiossl.data.kaldi import PHONES_CTM
from audiossl.losses.adaptive_relevance_margin import adaptive_relevance_margin
from audiossl.losses.bimodal_contrastive import bimodal_contrastive
from audiossl.losses.self_labelling import self_labelling
from audiossl.metrics.average_precision import average_precision
from audiossl.metrics.threshold_f1 import threshold_f1
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.task import Task
from audiossl.nn.word_embedder import SequenceEmbedder, SymbolEmbedder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

    Words = dict[str, tuple[str, ...]]
    """Symbols of each word."""

WORDS = "words.json"
UNLABELLED = "-"
_UNKNOWN = "<unk>"
_MOST_PAIRED = 2000  # utterances that are paired with one another and with words; a random choice of them beyond


class WordEmbedding(Task):
    """Two encoders, one space (El-Geish, 2019): frames of a word to a vector, phones of a word to a vector; alike means the same word.

    A word is its symbols: two that sound alike are one. A word that training did not have is found by its phones. Architecture and defaults are our variant: the publication's are unverified.
    """

    @dataclass(frozen=True)
    class Config:
        """Sizes, the loss, and where words and their symbols stand.

        column: of the word, one to an utterance; `-` is unlabelled. symbols: `phones` of `phones.ctm`, of each word its commonest sequence without `silences`, or the
        word's `letters`. loss: `contrastive` (margin, hardest, within: see `bimodal_contrastive`) or `adaptive_margin`. self_label_radius: utterances without a label take the
        nearest word of the batch within this distance; 0: never. threshold: distance up to which a pair counts as one word, for F1.
        """

        column: str = "utt2word"
        symbols: Literal["phones", "letters"] = "phones"
        silences: tuple[str, ...] = ("SIL",)
        dim: int = 128
        hidden_dim: int = 128
        symbol_dim: int = 32
        num_layers: int = 1
        dropout: float = 0.0
        loss: Literal["contrastive", "adaptive_margin"] = "contrastive"
        margin: float = 1.0
        hardest: int = 4
        within: float = 0.5
        detach_target: bool = False
        self_label_radius: float = 0.0
        threshold: float = 0.5

        @classmethod
        def tiny(cls) -> WordEmbedding.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                column="utt2keyword", symbols="letters", dim=6, hidden_dim=5, symbol_dim=4, self_label_radius=0.5
            )

    metric = ("cross_average_precision", "max")

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, words: Words) -> None:
        super().__init__()
        self.config, self.words = config, words
        self.symbols = {_UNKNOWN: 0}
        for symbol in sorted({symbol for symbols in words.values() for symbol in symbols}):
            self.symbols[symbol] = len(self.symbols)
        self.needs = (config.column,)
        self.sequences = list(dict.fromkeys(words.values()))
        number = {symbols: at for at, symbols in enumerate(self.sequences)}
        self.labels = WordLabels({word: number[symbols] for word, symbols in words.items()}, config.column)
        self.weighted = WeightedLayers(num_layers)
        sizes = (config.hidden_dim, config.num_layers, config.dim)
        self.acoustic = SequenceEmbedder(encoder_dim, *sizes, dropout=config.dropout)
        self.phonetic = SymbolEmbedder(len(self.symbols), config.symbol_dim, *sizes)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it for the words of a data directory."""
        return cls(encoder.dim, encoder.num_layers, config, read_words(manifest, config))

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> Self:
        """Build it for the words that an experiment was trained with."""
        table = read_json_table(experiment / WORDS, "it is written by `audiossl finetune`")
        return cls(encoder.dim, encoder.num_layers, config, {word: tuple(symbols) for word, symbols in table.items()})

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """Words, and their phones."""
        return (config.column, *([PHONES_CTM] if config.symbols == "phones" else []))

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:
        """Raise ValueError for fewer than two words, and for one without phones."""
        read_words(manifest, config)

    def save_labels(self, experiment: Path) -> None:
        """Write the words with their symbols into the experiment folder."""
        write_json(experiment / WORDS, {word: list(symbols) for word, symbols in self.words.items()})

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.weighted.shares()

    def embed_words(self, words: Sequence[tuple[str, ...]]) -> Tensor:
        """Embeddings of sequences of symbols: (word, dim), unit vectors. A symbol that training did not have is the unknown one."""
        device = self.weighted.layer_logits.device
        lengths = torch.tensor([len(symbols) for symbols in words])
        numbers = torch.zeros(len(words), int(lengths.max()), dtype=torch.int64)
        for row, symbols in enumerate(words):
            numbers[row, : len(symbols)] = torch.tensor([self.symbols.get(symbol, 0) for symbol in symbols])
        vectors: Tensor = self.phonetic(numbers.to(device), lengths)
        return vectors

    def embed(self, output: EncoderOutput) -> Tensor:
        """Embeddings of spoken words: (utterance, dim), unit vectors."""
        return self.embed_frames(self.weighted(output), output.lengths)

    def embed_frames(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings of frames that `weighted` mixed, (utterance, frame, dim): (utterance, dim), unit vectors."""
        vectors: Tensor = self.acoustic(frames, lengths)
        return vectors

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Return the loss of the batch times its utterances, whose words are contrasted with one another, and their number."""
        sound, label = self.embed(output).float(), batch["label"]
        known = label >= 0
        spoken, place = torch.unique(label[known], return_inverse=True)
        # A batch without a label teaches nothing, but every parameter gets its gradient of 0.
        script = self.embed_words([self.sequences[number] for number in (spoken.tolist() or [0])]).float()
        own = torch.full_like(label, -1)
        own[known] = place
        if self.config.self_label_radius and known.any():
            guessed = self_labelling(sound, script, radius=self.config.self_label_radius)
            own = torch.where(known, own, guessed)
        total = self._loss(sound, script, own)
        count = torch.tensor(float(len(label)), device=sound.device)
        right = ((sound @ script.T).argmax(dim=1) == own) & known
        metrics = {"accuracy": (right.sum(), known.sum()), "labelled": ((own >= 0).sum(), count)}
        return StepOutput(total * count, count, metrics)

    def predict(self, output: EncoderOutput) -> list[np.ndarray]:
        """Return the embedding of each utterance: (dim,)."""
        return list(self.embed(output).float().cpu().numpy())

    @torch.no_grad()
    def evaluate(self, predictions: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, float]:
        """Score embeddings, in percent, against the words of a data directory; its unlabelled utterances are left out.

        average_precision: of pairs of utterances, the same-different task (Carlin et al., 2011). cross_average_precision: of an utterance and a word. f1: of these at
        `threshold`; f1_best at the best one. recall_at_1: utterances whose nearest word is theirs. `_unseen`: of words that training did not have, nor any of the
        same symbols. Words of the same symbols count as one. Of more than 2,000 utterances each of these is that of 2,000, drawn alike each time.
        """
        words = read_words(manifest, self.config)
        column, row = manifest.column(self.config.column), {name: at for at, name in enumerate(manifest.ids)}
        said = {name: column[row[name]].strip() for name in predictions}
        kept = [name for name, word in said.items() if word != UNLABELLED]
        sound = np.stack([predictions[name] for name in kept])
        number = {symbols: at for at, symbols in enumerate(dict.fromkeys(words.values()))}
        labels = np.array([number[words[said[name]]] for name in kept])
        script = self.embed_words(list(number)).float().cpu().numpy()
        found = _pairs(sound, labels) | self._crossed(sound, script, labels)
        seen = {*self.sequences, *(words[word] for word in words if word in self.words)}
        unseen = np.isin(labels, [at for symbols, at in number.items() if symbols not in seen])
        if unseen.any():
            crossed = self._crossed(sound[unseen], script, labels[unseen])
            found |= {f"{name}_unseen": value for name, value in crossed.items()}
        return found

    def _loss(self, sound: Tensor, script: Tensor, own: Tensor) -> Tensor:
        config = self.config
        if config.loss == "adaptive_margin":
            return adaptive_relevance_margin(sound, script, own, detach=config.detach_target)
        return bimodal_contrastive(
            sound, script, own, margin=config.margin, hardest=config.hardest, within=config.within
        )

    def _crossed(self, sound: np.ndarray, script: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        sound, labels = _drawn(sound, labels)
        cosines = sound @ script.T
        scores, wanted = cosines.ravel(), (labels[:, None] == np.arange(len(script))).ravel()
        return {
            "cross_average_precision": 100.0 * average_precision(scores, wanted),
            "f1": threshold_f1(scores, wanted, 1.0 - self.config.threshold**2 / 2.0),
            "f1_best": threshold_f1(scores, wanted),
            "recall_at_1": 100.0 * float(np.mean(cosines.argmax(axis=1) == labels)),
        }


@dataclass(frozen=True)
class WordLabels:
    """Words to numbers of their symbols, in the loader's workers."""

    numbers: Mapping[str, int]
    column: str

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """label: number of the word's symbols, -1 where it is unlabelled or new."""
        return {"label": self.numbers.get(str(utterance.columns[self.column]).strip(), -1)}


def read_words(manifest: Manifest, config: Any) -> Words:
    """Return the words of a data directory, sorted, each with its symbols; ValueError for fewer than two that differ in them, and for one without phones."""
    column = manifest.column(config.column)
    said = {name: value.strip() for name, value in zip(manifest.ids, column, strict=True)}
    names = sorted(set(said.values()) - {UNLABELLED})
    place = manifest.path / config.column
    if len(names) < 2:
        raise ValueError(f"{place}: has {len(names)} different words; at least two are needed")
    if config.symbols == "letters":
        return {name: tuple(name) for name in names}
    spoken = _phones(manifest.path / PHONES_CTM, config.silences)
    ways: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for name, word in said.items():
        ways[word].update([spoken[name]] if spoken.get(name) else [])
    silent = next((name for name in names if not ways[name]), None)
    if silent is not None:
        raise ValueError(
            f"{place}: no utterance of {silent!r} has phones in {PHONES_CTM}; label it `-` or use task.symbols letters"
        )
    # Of sequences as common as one another the first in their order, whatever the order of the utterances.
    words = {name: min(ways[name], key=lambda way: (-ways[name][way], way)) for name in names}
    if len(set(words.values())) < 2:
        raise ValueError(f"{place}: all of its words have the same phones in {PHONES_CTM}; at least two are needed")
    return words


def _phones(path: Path, silences: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for utterance, phone in read_phones(path):
        if phone.phone not in silences:
            found[utterance].append(phone.phone)
    return {utterance: tuple(phones) for utterance, phones in found.items()}


def _drawn(sound: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `_MOST_PAIRED` utterances, the same ones for the same number of them."""
    if len(labels) <= _MOST_PAIRED:
        return sound, labels
    chosen = np.random.default_rng(0).choice(len(labels), _MOST_PAIRED, replace=False)
    return sound[chosen], labels[chosen]


def _pairs(sound: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score pairs of utterances; nothing where no word comes twice."""
    sound, labels = _drawn(sound, labels)
    first, second = np.triu_indices(len(labels), k=1)
    same = labels[first] == labels[second]
    if same.all() or not same.any():
        return {}
    return {"average_precision": 100.0 * average_precision((sound @ sound.T)[first, second], same)}
