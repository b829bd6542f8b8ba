"""VC: the converter against NumPy on the same weights, spectra against their formula, scores of spectra that are known."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from ctc_oracles import DIM, LAYERS, array, blstm, frames, linear, mixed, sigmoid, unsettle

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureShape
from audiossl.metrics.mel_cepstral_distortion import mel_cepstral_distortion
from audiossl.superb import judges
from audiossl.tasks._mel import BINS, HOP, SAMPLE_RATE, log_mel, waveform_of
from audiossl.tasks.voice_conversion import VoiceConversion

SHAPE = FeatureShape(DIM, LAYERS, 320, 16_000)
RATIO = 24_000 / 256 / 50


def tune(pitch, seconds):
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * pitch * (1 + 0.3 * time) * k * time) / k for k in range(1, 12))
    return (0.1 * tone).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root, rows = tmp_path_factory.mktemp("voices"), []
    for name, speaker, pitch, seconds in (("a", "x", 120, 0.3), ("b", "x", 150, 0.4), ("c", "y", 200, 0.35)):
        path = root / f"{name}.wav"
        write_audio(path, tune(pitch, seconds), SAMPLE_RATE)
        columns = {"utt2target": str(path), "text": "Yes, no."}
        rows.append(CorpusUtterance(f"{speaker}-{name}", f"{speaker}-{name}", path, speaker, columns=columns))
    write_data_dir(rows, root / "data")
    return Manifest.open(root / "data")


def make(manifest, **changed):
    torch.manual_seed(0)
    config = replace(VoiceConversion.Config.tiny(), column="utt2target", **changed)
    return unsettle(VoiceConversion.from_data(SHAPE, config, manifest))


def cell(x, module, state, memory):
    ins = x @ array(module.weight_ih).T + array(module.bias_ih)
    i, f, g, o = np.split(ins + state @ array(module.weight_hh).T + array(module.bias_hh), 4)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(memory), memory


def encoded(x, net):
    """What the encoder gives, its batch norms in evaluation."""
    if not hasattr(net.encoder, "convs"):
        return np.maximum(linear(x, net.encoder.input), 0.0)
    x = linear(x, net.encoder.input)
    for conv, norm in zip(net.encoder.convs, net.encoder.norms, strict=True):
        padded = np.pad(x, ((2, 2), (0, 0)))
        x = np.stack([np.einsum("oik,ki->o", array(conv.weight), padded[t : t + 5]) for t in range(len(x))])
        x = (x - array(norm.running_mean)) / np.sqrt(array(norm.running_var) + norm.eps) * array(norm.weight)
        x = np.maximum(x + array(norm.bias), 0.0)
    return blstm(x, net.encoder.blstm.layers)


def by_hand(task, output, row, target=None):
    """Spectrum of one utterance, frame by frame, without any dropout."""
    net = task.converter
    x = mixed(output, row, task.weighted.layer_logits)
    count = int(len(x) * RATIO)
    states = encoded(np.stack([x[int(t / RATIO)] for t in range(count)]), net)
    hidden = memory = [np.zeros(states.shape[1]) for _ in net.cells]
    hidden, memory, last, made = list(hidden), list(memory), np.zeros(BINS), []
    for t in range(count):
        heard = last
        for layer in net.prenet:
            heard = np.maximum(linear(heard, layer), 0.0)
        x = np.concatenate([states[t], heard])
        for k, (one, projection) in enumerate(zip(net.cells, net.projections, strict=True)):
            state, memory[k] = cell(x, one, hidden[k], memory[k])
            x = hidden[k] = np.tanh(linear(state, projection))
        made.append(linear(x, net.output))
        last = made[-1] if target is None else target[t]
        last = (last - array(net.mean)) / array(net.deviation)
    return np.stack(made)


@pytest.mark.parametrize(
    "changed", [{}, {"encoder": "linear"}, {"prenet_dims": ()}, {"prenet_dims": (5, 3), "cells": 1}]
)
def test_spectra_equal_a_forward_pass_in_numpy(manifest, changed):
    task, output = make(manifest, prenet_dropout=0.0, **changed).eval(), frames()
    with torch.no_grad():
        said = task.predict(output)
    for row, mel in enumerate(said):
        assert mel.shape == (int(output.lengths[row] * RATIO), BINS)
        np.testing.assert_allclose(mel, by_hand(task, output, row), atol=1e-5)


def test_in_training_the_true_spectrum_is_heard(manifest):
    task, output = make(manifest, prenet_dropout=0.0).eval(), frames()
    counts = [20, 7, 9]  # more than the 16 frames made, as many, less than the 13
    target = torch.randn(3, 20, BINS, generator=torch.Generator().manual_seed(1))
    step = task.loss(output, {"mel": target, "mel_lengths": torch.tensor(counts)})
    total = both = 0
    for row, count in enumerate(counts):
        made = by_hand(task, output, row, array(target[row]))
        common = min(len(made), count)
        error = (made[:common] - array(target[row, :common])) / array(task.converter.deviation)
        total, both = total + np.abs(error).mean(axis=1).sum(), both + common
    assert step.loss_sum.item() == pytest.approx(total, rel=1e-5)
    assert step.count == both


def test_padding_and_batch_mates_change_nothing_though_dropout_is_on(manifest):
    task, output = make(manifest, prenet_dims=(6, 5)).eval(), frames()
    alone = EncoderOutput([layer[1:2, :4] for layer in output.layers], torch.tensor([4]))
    with torch.no_grad():
        together, single = task.predict(output)[1], task.predict(alone)[0]
        np.testing.assert_allclose(together, single, atol=1e-5)
        np.testing.assert_array_equal(task.predict(alone)[0], single)
    assert not np.allclose(single, by_hand(task, output, 1), atol=1e-4)


def test_gradients_reach_everything(manifest):
    task = make(manifest, hidden_dim=16, prenet_dims=(8, 8)).train()
    torch.manual_seed(1)
    target = torch.randn(3, 16, BINS)
    task.loss(frames(), {"mel": target, "mel_lengths": torch.tensor([16, 7, 13])}).loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_published_network_is_the_default(manifest):
    config = VoiceConversion.Config()
    net = VoiceConversion.from_data(FeatureShape(768, 12, 320, 16_000), config, manifest).converter
    assert (net.encoder.input.in_features, net.encoder.input.out_features) == (768, 512)
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in net.encoder.convs] == [(512, 512, (5,))] * 3
    assert (net.encoder.blstm.layers.hidden_size, net.encoder.blstm.layers.num_layers) == (512, 1)
    assert [(p.in_features, p.out_features) for p in net.prenet] == [(80, 256), (256, 256)]
    assert [(c.input_size, c.hidden_size) for c in net.cells] == [(1024 + 256, 1024), (1024, 1024)]
    assert (net.ratio, net.prenet_dropout, net.dropout.p) == (1.875, 0.5, 0.2)
    assert VoiceConversion.selects_on_test


def test_statistics_are_those_of_the_targets_frames(manifest):
    task = make(manifest)
    mels = np.concatenate([log_mel(read_audio(path)) for path in manifest.column("utt2target")]).astype(np.float64)
    np.testing.assert_allclose(array(task.converter.mean), mels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(array(task.converter.deviation), mels.std(axis=0), rtol=1e-4)


def test_log_mel_is_its_formula(manifest):
    labels = pickle.loads(pickle.dumps(make(manifest).labels))
    wave = tune(120, 0.3)
    found = labels(Utterance("x-a", None, 16_000, {"utt2target": manifest.column("utt2target")[0]}))["mel"]
    assert found.dtype == np.float32
    assert found.shape == (1 + len(wave) // HOP, BINS)

    def mel(hz):
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    def hertz(m):
        return 200 * m / 3 if m < 15 else 1000 * np.exp(np.log(6.4) * (m - 15) / 27)

    edges = [hertz(m) for m in np.linspace(mel(80), mel(7600), BINS + 2)]
    padded = np.pad(read_audio(manifest.column("utt2target")[0]).astype(np.float64), 512, mode="reflect")
    for frame in (0, 9, 20):
        piece = padded[frame * HOP : frame * HOP + 1024] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024))
        magnitude, hz = np.abs(np.fft.rfft(piece)), np.fft.rfftfreq(1024, 1 / SAMPLE_RATE)
        for channel in (0, 30, 79):
            low, mid, high = edges[channel : channel + 3]
            slope = np.maximum(0, np.minimum((hz - low) / (mid - low), (high - hz) / (high - mid)))
            wanted = np.log10(max(1e-10, magnitude @ slope * 2 / (high - low)))
            assert found[frame, channel] == pytest.approx(wanted, abs=1e-4)


def test_a_waveform_of_a_spectrum_has_that_spectrum():
    mel = log_mel(tune(120, 0.4))
    wave = waveform_of(mel)
    np.testing.assert_array_equal(wave, waveform_of(mel))
    loud = mel > mel.max() - 2
    assert np.abs(log_mel(wave)[: len(mel)] - mel[: len(wave) // HOP + 1])[loud].mean() < 0.1
    assert len(waveform_of(mel[:1])) >= 1024  # a spectrum of one frame is heard
    with pytest.raises(ValueError, match="512 samples are too few"):
        log_mel(np.zeros(512, np.float32))


@pytest.mark.parametrize("workers", [0, 2])
def test_distortion_is_the_mean_over_utterances(manifest, workers):
    task = make(manifest, num_workers=workers)
    mels = {name: log_mel(tune(130, 0.3)) for name in manifest.ids}
    paths = dict(zip(manifest.ids, manifest.column("utt2target"), strict=True))
    wave = waveform_of(log_mel(tune(130, 0.3)))
    wanted = np.mean([mel_cepstral_distortion(wave, read_audio(paths[name]), SAMPLE_RATE) for name in mels])
    assert task.evaluate(mels, manifest) == {"mcd": pytest.approx(wanted)}
    lines = [line.split() for line in task.answers(task.examine(mels, manifest)[1], manifest, {})["scores"]]
    assert [line[:2] for line in lines] == [[name, "mcd"] for name in sorted(mels)]
    assert np.mean([float(line[2]) for line in lines]) == pytest.approx(wanted)
    assert task.metric == ("mcd", "min")


def test_models_judge_only_where_they_are_named(manifest, monkeypatch):
    asked = []
    monkeypatch.setattr(judges, "recognised", lambda *given: asked.append(given) or {"wer": 1.0})
    monkeypatch.setattr(judges, "verified", lambda *given: asked.append(given) or {"accept": 2.0})
    mels = {manifest.ids[2]: log_mel(tune(130, 0.3)), manifest.ids[0]: log_mel(tune(140, 0.3))}
    assert make(manifest).needs == ("utt2target",)
    assert make(manifest).evaluate(mels, manifest).keys() == {"mcd"}
    monkeypatch.setattr(judges, "check_judges", lambda *given: asked.append(given))
    task = make(manifest, recogniser="exp/asr", verifier="exp/sv")
    assert asked.pop() == ("exp/asr", "exp/sv")
    assert task.needs == ("utt2target", "text")
    assert task.evaluate(mels, manifest).items() >= {"wer": 1.0, "accept": 2.0}.items()
    (waves, rate, texts, named), (others, _, targets, directory, rows, verifier) = asked
    assert (rate, texts, named, verifier) == (SAMPLE_RATE, ["Yes, no."] * 2, "exp/asr", "exp/sv")
    assert (targets, rows) == ([manifest.column("utt2target")[row] for row in (2, 0)], [2, 0])
    assert directory is manifest
    assert len(waves) == len(others) == 2


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ({}, "WER and accept rate are not measured: task.recogniser and task.verifier are empty"),
        ({"recogniser": "exp/asr"}, "accept rate is not measured: task.verifier is empty"),
        ({"verifier": "exp/sv"}, "WER is not measured: task.recogniser is empty"),
        ({"recogniser": "exp/asr", "verifier": "exp/sv"}, ""),
    ],
)
def test_what_is_not_measured_is_said(models, line):
    assert VoiceConversion.not_measured(VoiceConversion.Config(**models)) == line


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_dim": 5}, "hidden_dim 5"),
        ({"cells": 0}, "cells 0"),
        ({"prenet_dims": (0,)}, r"prenet_dims \(0,\)"),
        ({"prenet_dropout": 1.0}, "prenet_dropout 1.0"),
        ({"num_workers": -1}, "num_workers -1"),
    ],
)
def test_bad_settings_are_named(manifest, changed, message):
    with pytest.raises(ValueError, match=message):
        make(manifest, **changed)


@pytest.mark.parametrize("name", ["recogniser", "verifier"])
def test_judges_are_opened_before_training(manifest, name):
    with pytest.raises(ValueError, match=rf"^task\.{name}: .*nowhere") as error:
        make(manifest, **{name: "nowhere"})
    assert "\n" not in str(error.value)
