"""SE and SS: the head against NumPy on the same weights, targets against their formula, and scores of masks that are known."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from ctc_oracles import DIM, LAYERS, array, blstm, frames, linear, mixed, unsettle

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.piece import Piece
from audiossl.data.stft import BINS, num_frames, stft
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureShape
from audiossl.metrics.si_sdr import si_sdr
from audiossl.tasks import _mask_scores
from audiossl.tasks._mask_scores import separated
from audiossl.tasks.enhancement import Enhancement
from audiossl.tasks.separation import Separation

HOP, RATE = 320, 16_000
SHAPE = FeatureShape(DIM, LAYERS, HOP, RATE)
SECONDS = {"a": 0.5, "b": 0.3}


def make(cls=Separation, **changed):
    torch.manual_seed(0)
    return unsettle(cls.from_data(SHAPE, replace(cls.Config.tiny(), **changed), None))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two mixtures of a low and a high voice, with these as sources 1 and 2, and the low one as clean."""
    root, rng = tmp_path_factory.mktemp("mixtures"), np.random.default_rng(0)
    rows = []
    for name, seconds in SECONDS.items():
        spectra = np.fft.rfft(0.05 * rng.standard_normal((2, round(seconds * RATE))))
        half = spectra.shape[1] // 2
        spectra[0, half:] = spectra[1, :half] = 0
        low, high = np.fft.irfft(spectra, round(seconds * RATE))
        paths = {part: root / f"{name}-{part}.wav" for part in ("mixture", "low", "high")}
        for path, wave in zip(paths.values(), (low + high, low, high), strict=True):
            write_audio(path, wave.astype(np.float32), RATE)
        columns = {"utt2source1": paths["low"], "utt2source2": paths["high"], "utt2clean": paths["low"]}
        columns = {column: str(path) for column, path in columns.items()}
        rows.append(CorpusUtterance(name, name, paths["mixture"], name, columns=columns))
    write_data_dir(rows, root / "data")
    return Manifest.open(root / "data")


def utterance(manifest, index, cls=Utterance, **more):
    columns = {name: manifest.column(name)[index] for name in ("utt2clean", "utt2source1", "utt2source2")}
    return cls(manifest.ids[index], manifest.audio(index, sample_rate=RATE), RATE, columns, **more)


def sources_of(manifest, index):
    from audiossl.data.audio import read_audio

    return [read_audio(manifest.column(name)[index]) for name in ("utt2source1", "utt2source2")]


def test_the_published_heads_are_the_default():
    for cls, sources in ((Enhancement, 1), (Separation, 2)):
        config = replace(cls.Config(), metrics=("si_sdr_improvement",))
        task = cls.from_data(FeatureShape(768, 12, 320, RATE), config, None)
        lstm = task.blstm.layers
        assert (lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bidirectional) == (768, 896, 3, True)
        assert lstm.dropout == task.blstm.dropout.p == 0.5
        assert (task.output.in_features, task.output.out_features) == (1792, 257 * sources)
    assert Enhancement.Config().metrics == ("pesq", "stoi", "si_sdr_improvement")
    assert Separation.Config().metrics == ("si_sdr_improvement",)
    assert make(Enhancement).metric == make().metric == ("si_sdr_improvement", "max")


def masks_by_hand(task, output, row):
    hidden = blstm(mixed(output, row, task.weighted.layer_logits), task.blstm.layers)
    masks = np.maximum(linear(hidden, task.output), 0.0)
    return masks.reshape(len(masks), BINS, len(task.config.columns))


@pytest.mark.parametrize("cls", [Enhancement, Separation])
def test_masks_equal_a_forward_pass_in_numpy(cls):
    task, output = make(cls, num_layers=2).eval(), frames()
    with torch.no_grad():
        found = task.predict(output)
    for row, masks in enumerate(found):
        wanted = masks_by_hand(task, output, row)
        assert masks.dtype == np.float32
        assert (wanted > 0).any()
        np.testing.assert_allclose(masks, wanted, atol=1e-5)


@pytest.mark.parametrize("stride", [640, 480])
def test_frames_that_are_too_rare_are_interpolated(stride, manifest):
    torch.manual_seed(0)
    shape = FeatureShape(DIM, LAYERS, stride, RATE)
    task = unsettle(Separation.from_data(shape, Separation.Config.tiny(), None)).eval()
    output = frames()
    assert (task.hop, task.labels.hop) == (320, 320)
    with torch.no_grad():
        found = task.predict(output)
    for row, length in enumerate(output.lengths.tolist()):
        dense = mixed(output, row, task.weighted.layer_logits)
        where = np.arange(-(-length * stride // 320)) * 320 / stride
        dense = np.stack([np.interp(where, np.arange(length), column) for column in dense.T], axis=1)
        hidden = blstm(dense, task.blstm.layers)
        wanted = np.maximum(linear(hidden, task.output), 0.0).reshape(len(where), BINS, 2)
        np.testing.assert_allclose(found[row], wanted, atol=1e-5)
    labels = task.labels(utterance(manifest, 0))
    batch = {name: torch.from_numpy(value)[None] for name, value in labels.items()}
    batch["mixture_lengths"] = torch.tensor([len(labels["mixture"])])
    alone = EncoderOutput([torch.randn(1, 12, DIM) for _ in range(LAYERS + 1)], torch.tensor([12]))
    assert torch.isfinite(task.loss(alone, batch).loss_sum)
    with torch.no_grad():
        masks = dict.fromkeys(manifest.ids, task.predict(alone)[0])
    assert np.isfinite(task.evaluate(masks, manifest)["si_sdr_improvement"])


def test_targets_are_the_nonnegative_phase_sensitive_ones(manifest):
    labels = pickle.loads(pickle.dumps(make().labels))
    found = labels(utterance(manifest, 0))
    mixture = stft(manifest.audio(0, sample_rate=RATE), HOP)
    np.testing.assert_allclose(found["mixture"], np.abs(mixture), rtol=1e-5)
    for source, wave in enumerate(sources_of(manifest, 0)):
        spectrum = stft(wave, HOP)
        wanted = np.abs(spectrum) * np.maximum(np.cos(np.angle(mixture) - np.angle(spectrum)), 0.0)
        np.testing.assert_allclose(found["targets"][..., source], wanted, atol=1e-5)
    assert found["targets"].dtype == found["mixture"].dtype == np.float32
    assert found["targets"].any(axis=(0, 1)).all()


def test_labels_of_a_piece_are_those_of_its_part(manifest):
    start, seconds = 0.1, 0.2
    first, last = (round(edge * RATE) for edge in (start, start + seconds))
    piece = utterance(manifest, 0, Piece, start=start, seconds=seconds)
    piece.waveform = piece.waveform[first:last]
    found = make().labels(piece)
    wanted = stft(manifest.audio(0, sample_rate=RATE)[first:last], HOP)
    np.testing.assert_allclose(found["mixture"], np.abs(wanted), rtol=1e-5)
    source = stft(sources_of(manifest, 0)[1][first:last], HOP)
    cosine = np.cos(np.angle(wanted) - np.angle(source))
    np.testing.assert_allclose(found["targets"][..., 1], np.abs(source) * np.maximum(cosine, 0), atol=1e-5)


def test_a_silent_mixture_has_finite_targets(manifest):
    silent = utterance(manifest, 0)
    silent.waveform = np.zeros_like(silent.waveform)
    assert not make().labels(silent)["targets"].any()


def test_loss_is_the_error_of_the_better_order_with_the_last_mask_repeated():
    task, output = make().eval(), frames()
    counts = [11, 4, 5]  # of the spectrum: two more, as many, two fewer than the upstream has
    generator = torch.Generator().manual_seed(1)
    mixture, targets = torch.rand(3, 11, BINS, generator=generator), torch.rand(3, 11, BINS, 2, generator=generator)
    for row, count in enumerate(counts):
        mixture[row, count:] = targets[row, count:] = 0
    batch = {"mixture": mixture, "targets": targets, "mixture_lengths": torch.tensor(counts)}
    step = task.loss(output, batch)
    total = 0.0
    for row, count in enumerate(counts):
        masks = masks_by_hand(task, output, row)
        masks = np.concatenate([masks, masks[-1:], masks[-1:]])[:count]
        estimates, wanted = masks * array(mixture[row, :count])[..., None], array(targets[row, :count])
        errors = [((estimates - wanted[..., order]) ** 2).sum() / (2 * count) for order in ([0, 1], [1, 0])]
        total += min(errors)
    assert step.loss_sum.item() == pytest.approx(total, rel=1e-5)
    assert step.count == 3


def test_gradients_reach_everything(manifest):
    task = make().train()
    labels = task.labels(utterance(manifest, 0))
    batch = {name: torch.from_numpy(value)[None] for name, value in labels.items()}
    batch["mixture_lengths"] = torch.tensor([len(labels["mixture"])])
    output = EncoderOutput([torch.randn(1, 24, DIM) for _ in range(LAYERS + 1)], torch.tensor([24]))
    task.loss(output, batch).loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def ideal(manifest, index, order=(0, 1), lost=2):
    """Masks of which one passes the low half and one the high half; `lost`: frames that an upstream does not give."""
    samples = len(manifest.audio(index, sample_rate=RATE))
    masks = np.zeros((num_frames(samples, HOP) - lost, BINS, 2), np.float32)
    masks[:, : BINS // 2, order[0]] = masks[:, BINS // 2 :, order[1]] = 1
    return masks


@pytest.mark.parametrize("workers", [0, 2])
def test_separation_is_scored_in_the_best_order(manifest, workers):
    task = make(num_workers=workers)
    predictions = {name: ideal(manifest, k, (k, 1 - k)) for k, name in enumerate(manifest.ids)}
    found = task.evaluate(predictions, manifest)
    improvements = []
    for index, name in enumerate(manifest.ids):
        mixture, sources = manifest.audio(index, sample_rate=RATE), sources_of(manifest, index)
        estimates = separated(mixture, predictions[name], HOP)
        ordered = estimates if index == 0 else estimates[::-1]
        improvements += [si_sdr(e, s) - si_sdr(mixture, s) for e, s in zip(ordered, sources, strict=True)]
    assert found == {"si_sdr_improvement": pytest.approx(np.mean(improvements))}
    assert found["si_sdr_improvement"] > 5


def test_a_mask_of_ones_is_the_mixture_and_improves_nothing(manifest):
    task = make(Enhancement)
    ones = {name: np.ones_like(ideal(manifest, k)[..., :1]) for k, name in enumerate(manifest.ids)}
    assert task.evaluate(ones, manifest) == {"si_sdr_improvement": pytest.approx(0.0, abs=1e-3)}


def test_a_mask_that_lets_nothing_pass_has_a_score(manifest):
    task = make(Enhancement)
    zeros = {name: np.zeros_like(ideal(manifest, k)[..., :1]) for k, name in enumerate(manifest.ids)}
    assert task.evaluate(zeros, manifest)["si_sdr_improvement"] < -90


def test_every_metric_is_the_mean_over_utterances(manifest, monkeypatch):
    monkeypatch.setattr(_mask_scores, "pesq", lambda estimate, source, rate: float(rate + len(estimate)))
    monkeypatch.setattr(_mask_scores, "stoi", lambda estimate, source, rate: float(len(source)))
    monkeypatch.setattr(_mask_scores, "find_spec", lambda name: name)
    task = make(Enhancement, metrics=Enhancement.Config().metrics)
    ones = {name: np.ones_like(ideal(manifest, k)[..., :1]) for k, name in enumerate(manifest.ids)}
    found, samples = task.evaluate(ones, manifest), 0.4 * RATE
    assert found == {"pesq": RATE + samples, "stoi": samples, "si_sdr_improvement": pytest.approx(0.0, abs=1e-3)}
    assert task.metric == ("pesq", "max")
    assert task.averages


def test_a_source_of_another_length_is_named(manifest, tmp_path):
    path = tmp_path / "short.wav"
    write_audio(path, np.full(1000, 0.1), RATE)
    bad = utterance(manifest, 0)
    bad.columns["utt2source2"] = str(path)
    with pytest.raises(ValueError, match="short.wav: 0 s to 0.5 s is asked for, but it ends at 0.0625 s"):
        make().labels(bad)
    rows = [CorpusUtterance("a", "a", path, "a", columns={"utt2clean": manifest.column("utt2clean")[0]})]
    write_data_dir(rows, tmp_path / "data")
    with pytest.raises(ValueError, match="^a: .*a-low.wav: 8000 samples at 16000 Hz, where the mixture has 1000"):
        make(Enhancement).evaluate({"a": np.ones((4, BINS, 1))}, Manifest.open(tmp_path / "data"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": ()}, "columns: 0 sources"),
        ({"metrics": ()}, "metrics: none"),
        ({"metrics": ("sdr",)}, "metrics: sdr; give some of pesq"),
        ({"hidden_dim": 0}, "hidden_dim 0"),
        ({"num_workers": -1}, "num_workers -1"),
    ],
)
def test_bad_settings_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        make(**changed)


def test_what_cannot_be_measured_is_named_before_training(monkeypatch):
    monkeypatch.setattr(_mask_scores, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'pesq' needs the package pesq; pip install 'audiossl\[enh\]'"):
        make(Enhancement, metrics=("pesq",))
    monkeypatch.setattr(_mask_scores, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="'pesq' is for 16000 Hz, and the upstream takes 8000"):
        Enhancement.from_data(FeatureShape(DIM, LAYERS, HOP, 8000), Enhancement.Config(num_workers=0), None)
