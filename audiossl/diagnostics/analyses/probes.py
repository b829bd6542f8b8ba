"""Linear probes of each layer alone: where in the encoder a property can be read off."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_layers
from audiossl.diagnostics.linear_probe import ProbeResult, Split, train_probe
from audiossl.diagnostics.probing import majority
from audiossl.diagnostics.subject import Subject, spoken

TITLE = "Probes by layer"
TAKES = ("probe",)


@dataclass(frozen=True)
class Config:
    """Nothing of its own: `--probe.KEY` says how probes are trained."""


def run(subject: Subject, config: Config) -> Finding:  # noqa: ARG001 - as all analyses are called
    """Test accuracy of a linear classifier on each layer's time-mean, for every column with classes."""
    finding = Finding()
    levels = {}
    for column, labels in subject.labels().items():
        found = subject.split(subject.pooled.features, labels)
        if found is None:
            finding.notes.append(f"{column}: its classes are too small to be split {subject.shares}")
            continue
        splits, classes = found
        name = spoken(column)
        results = probe_layers(subject, splits, len(classes))
        levels[f"{name}, commonest class"] = majority(splits)
        finding.add_layers(f"probe {name} accuracy", [result.accuracy for result in results], "%")
        # What one layer's score says of itself, as every score does.
        finding.numbers[-len(results) :] = [
            replace(
                number, more={"learning_rate": result.learning_rate, "std": result.std, "selection": "dev accuracy"}
            )
            for number, result in zip(finding.numbers[-len(results) :], results, strict=True)
        ]
        finding.add(f"commonest class of {name}", levels[f"{name}, commonest class"], "%")
        left_out = len(labels.names) - len(classes)
        if left_out:
            finding.notes.append(f"{column}: {left_out} of {len(labels.names)} classes are too small to be split")
    if not levels:
        raise SkippedError("no column has two classes of ten or so utterances each; add an utt2X with labels")
    curves = {measure: list(values.values()) for (measure, _), values in finding.by_measure().items()}
    finding.picture(
        lambda figure: draw_layers(figure, curves, "accuracy, %", levels=levels), "Probes of each layer alone"
    )
    return finding


def probe_layers(subject: Subject, splits: list[Split], num_classes: int) -> list[ProbeResult]:
    """One probe per layer. splits: train, dev and test of all layers, of the same features.

    A layer is held in memory while its probe trains, utterances x dim x 4 bytes, since every batch would copy it out of the memory map.
    """
    results = []
    for layer in range(subject.num_layers):
        features = np.ascontiguousarray(splits[0].features[:, layer : layer + 1])
        train, dev, test = (replace(split, features=features) for split in splits)
        results.append(
            train_probe(train, dev, test, num_classes=num_classes, config=subject.probe, device=subject.device)
        )
    return results
