"""A verification system put together: embeddings, a back-end, a cohort, and what calibration may know of an utterance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from audiossl.verification._vectors import pair_scores, trial_rows, vectors_of
from audiossl.verification.calibration import quality_features, read_log_durations
from audiossl.verification.cosine import Cosine
from audiossl.verification.score_norm import cohort_speakers, cohort_statistics, cohort_utterances, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from audiossl.verification._vectors import BackEnd
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.score_norm import CohortStatistics
    from audiossl.verification.trials import Trials

Norm: TypeAlias = Literal["s", "as"]
Quality: TypeAlias = Literal["duration", "norm", "cohort"]


@dataclass(frozen=True)
class Cohort:
    """What scores are normalised against.

    top: cohort scores per utterance that count, None for all (S-norm). speaker_means: members are speakers, by `utt2spk`, not
    utterances. renormalise: their means are brought back to unit length.
    """

    embeddings: Embeddings
    top: int | None = 300
    speaker_means: bool = False
    renormalise: bool = True


@dataclass(frozen=True)
class System:
    """Scores trials; nothing is trained here."""

    embeddings: Embeddings
    back_end: BackEnd
    cohort: Cohort | None = None

    def score(self, trials: Trials) -> tuple[np.ndarray, CohortStatistics | None]:
        """(trial,) scores, normalised where there is a cohort, and the cohort statistics of `trials.names`.

        ValueError names the first trial whose utterance has no embedding.
        """
        rows = trial_rows(trials, self.embeddings)
        vectors = vectors_of(self.embeddings, rows, self.back_end, exact=self.cohort is not None)
        scores = pair_scores(vectors, trials.enrol, trials.test)
        if self.cohort is None:
            return scores, None
        members = (
            cohort_speakers(self.cohort.embeddings, self.back_end, renormalise=self.cohort.renormalise)
            if self.cohort.speaker_means
            else cohort_utterances(self.cohort.embeddings, self.back_end)
        )
        statistics = cohort_statistics(vectors, members, top=self.cohort.top)
        return normalise(scores, trials.enrol, trials.test, statistics), statistics

    def quality(
        self, trials: Trials, kinds: Sequence[Quality], *, utt2dur: Path | None, statistics: CohortStatistics | None
    ) -> tuple[list[str], np.ndarray]:
        """Names and values, (trial, feature), of quality measures: log-duration, length of the embedding, mean cohort score.

        The length is that after the mean that cosines subtract. statistics: of the trials' utterances, as `score` returned them;
        needed for `cohort`, as `utt2dur` is for `duration`.
        """
        measures: dict[str, np.ndarray] = {}
        for kind in kinds:
            if kind == "duration":
                assert utt2dur is not None
                measures[kind] = read_log_durations(utt2dur, trials.names)
            elif kind == "norm":
                mean = self.back_end.mean if isinstance(self.back_end, Cosine) else None
                measures[kind] = self.embeddings.norms(trial_rows(trials, self.embeddings), mean)
            else:
                assert statistics is not None
                measures[kind] = statistics.mean
        return quality_features(trials, measures)
