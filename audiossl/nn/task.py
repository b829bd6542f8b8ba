"""What all tasks are: a head on an encoder's layers, with its labels, loss, predictions and score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, StepOutput, Utterance
    from audiossl.data.manifest import Manifest


class Settled(NamedTuple):
    """Values on test at the settings that dev chose, those at the settings that test would choose, and what else the row of the score says: these settings."""

    values: dict[str, float]
    official: dict[str, float]
    settings: dict[str, Any]


class Task(nn.Module):
    """A head: trained on frames that it is given, by `finetune` with the encoder below it, by `superb` on frozen features.

    needs: files that it wants from the data directory. labels: from an utterance to what the loss wants of it, in the loader's
    workers; small and picklable, without the weights. metric: a key of what `evaluate` returns, and which way is better.
    runner: the file of `superb/` that scores it. selects_on_test: the official protocol chooses the checkpoint on test. shown: what a table
    shows, of what `settle` returns, where that is not the metric. averages: what `evaluate` returns is a mean over utterances, so that it may be
    asked of one batch after the other, and no predictions be kept. final: set by `superb` once dev has chosen this head, which then is asked
    about test: the time for what would be too slow at every evaluation. superb_only: keys of `Config` that `finetune` has no use for.
    writes_text: `predict` returns strings, as `audiossl transcribe` prints them. hears: `labels` look at the waveform. aligned: its labels
    are of times in the recordings, so that these cannot be played faster. encoder_needs: methods of an encoder that it
    can be fine-tuned with. min_frames: recordings of fewer cannot be used. variant: in what it differs from the published protocol, for the row of a score; "": in nothing that is known.
    published_classes: how many the published data have, in all columns, which a row of other data is told by.
    """

    runner: ClassVar[Literal["pooled", "frames", "search"]] = "frames"
    variant: ClassVar[str] = ""
    published_classes: ClassVar[int | None] = None
    selects_on_test: ClassVar[bool] = False
    shown: ClassVar[str | None] = None
    averages: ClassVar[bool] = False
    final: bool = False
    superb_only: ClassVar[tuple[str, ...]] = ()
    writes_text: ClassVar[bool] = False
    hears: ClassVar[bool] = False
    aligned: ClassVar[bool] = False
    encoder_needs: ClassVar[tuple[str, ...]] = ("contextualise",)
    min_frames: ClassVar[int] = 1

    config: Any
    needs: tuple[str, ...]
    labels: Callable[[Utterance], Mapping[str, Any]]
    metric: tuple[str, Literal["min", "max"]]

    @classmethod
    def label_files(cls, config: Any, part: str) -> tuple[str, ...]:  # noqa: ARG003 - of some tasks, parts differ
        """Files of a directory that a score depends on beside the audio, known before anything is built. part: `train`, `dev`, `test`."""
        columns: tuple[str, ...] = config.columns if hasattr(config, "columns") else (config.column,)
        return columns

    @classmethod
    def check_labels(cls, config: Any, manifest: Manifest) -> None:
        """Raise ValueError for labels of a directory by which it could not be scored; its `label_files` are there, with a line for each utterance."""

    def doubts(self, manifest: Manifest) -> list[str]:  # noqa: ARG002 - of most tasks, nothing
        """Lines about labels of development data that are unlike those of training; ValueError where they are in another case."""
        return []

    @classmethod
    def looked_up(cls, config: Any, manifest: Manifest) -> Iterable[str]:  # noqa: ARG003 - of most tasks, nothing
        """What the labels of a directory stand for in files outside of it, of which a score depends on nothing else."""
        return ()

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Return the loss of a batch, as sums."""
        raise NotImplementedError

    def predict(self, output: EncoderOutput) -> Sequence[Any]:
        """Return what the head says of each utterance; in eval mode, without gradients."""
        raise NotImplementedError

    def score(self, predictions: Sequence[Any], references: Sequence[str]) -> dict[str, float]:
        """Compare predictions with the values of the column `config.column`."""
        raise NotImplementedError

    def evaluate(self, predictions: Mapping[str, Any], manifest: Manifest) -> dict[str, float]:
        """Score predictions by utterance against the data directory that they were made on.

        A task that is not scored against one column (trials, segments of speakers) has its own.
        """
        return self.score(list(predictions.values()), self.references(predictions, manifest))

    def references(self, utterances: Iterable[str], manifest: Manifest) -> list[str]:
        """What `evaluate` compares predictions of these utterances with."""
        column = manifest.column(self.config.column)
        where = {utterance: index for index, utterance in enumerate(manifest.ids)}
        return [column[where[name]] for name in utterances]

    def examine(self, predictions: Mapping[str, Any], manifest: Manifest) -> tuple[dict[str, float], Mapping[str, Any]]:
        """Return what `evaluate` does and, by utterance, what `answers` is given: the predictions, or what was measured of each."""
        return self.evaluate(predictions, manifest), predictions

    def answers(
        self,
        said: Mapping[str, Any],
        manifest: Manifest,
        settings: Mapping[str, Any],  # noqa: ARG002 - of some tasks alone
    ) -> dict[str, Iterable[str]]:
        """Lines of the files by which a score can be checked, by the end of their names; made when they are asked for.

        said: what `examine` returned. settings: those that `settle` returned. Here texts and references; nothing where a task writes none.
        """
        if not self.writes_text:
            return {}
        return {"hyp": text_lines(said), "ref": self._reference_lines(said, manifest)}

    def _reference_lines(self, utterances: Iterable[str], manifest: Manifest) -> Iterator[str]:
        yield from text_lines(dict(zip(utterances, self.references(utterances, manifest), strict=True)))

    def settle(self, dev: Mapping[str, float], test: Mapping[str, float]) -> Settled:
        """Turn what `evaluate` gave on both, at several settings, into the values at those that dev chose and at those that test would choose."""
        raise NotImplementedError

    def layer_shares(self) -> Tensor | None:
        """Share of each layer in the features, (layer,) with sum 1; None where the task takes one layer."""
        return None


def text_lines(texts: Mapping[str, str]) -> Iterator[str]:
    """Yield `utterance word word ...` as Kaldi writes them, sorted by utterance."""
    return (" ".join([name, *texts[name].split()]) for name in sorted(texts))


def class_lines(
    utterances: Sequence[str], names: Sequence[str], outputs: np.ndarray, labels: np.ndarray
) -> Iterator[str]:
    """Yield `utterance predicted reference`, white space in names of classes as `_`. outputs: (utterance, class); labels: (utterance,)."""
    word = ["_".join(name.split()) for name in names]
    for utterance, predicted, wanted in zip(utterances, outputs.argmax(axis=1).tolist(), labels.tolist(), strict=True):
        yield f"{utterance} {word[predicted]} {word[wanted]}"


def measured_lines(measured: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield `utterance metric value metric value ...`, sorted by utterance."""
    return (
        " ".join([name, *(f"{key} {value:.9g}" for key, value in measured[name].items())]) for name in sorted(measured)
    )
