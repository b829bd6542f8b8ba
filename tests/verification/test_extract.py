"""Embeddings of a data directory against each utterance embedded alone, in float64 or straight from its file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from corpora import noises, write_corpus, write_encoder

from audiossl.data.audio import read_audio, write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.shards import write_shards
from audiossl.encoders.thin_resnet34 import ThinResNet34
from audiossl.verification.embeddings import Embeddings
from audiossl.verification.extract import EvenCrops, ExtractConfig, _AtLeast, extract, open_embedder

RATE = 16000
SECONDS = (0.31, 1.27, 0.5, 0.9, 2.0, 0.43, 1.1)
HERE = {"num_workers": 0, "max_bad_fraction": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_corpus(root, noises(round(seconds * RATE) for seconds in SECONDS), speakers=("s0", "s1", "s2"))


def experiment(folder, name, **options):
    """An experiment folder with an encoder of random weights; returns the encoder, in eval mode."""
    return write_encoder(folder, name, **options).eval()


def speaker_encoder(folder):
    return experiment(folder, "thin_resnet34")


def waveform_of(data, number):
    return read_audio(data.parent / f"{number}.wav")


def embedded(embed, waveform):
    with torch.no_grad():
        return embed(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))[0].numpy()


def by_number(folder):
    store = Embeddings.open(folder)
    return {int(name.split("-")[1]): store.matrix[row] for row, name in enumerate(store.ids)}


def test_buckets_give_what_each_utterance_gives_alone(data, tmp_path):
    encoder = speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    config = ExtractConfig(batch_seconds=4.0, **HERE)
    assert extract(Manifest.open(data), embedder, tmp_path / "e", config, log=print) == (7, {})
    found = by_number(tmp_path / "e")
    exact = ThinResNet34(ThinResNet34.Config.tiny()).double().eval()
    exact.load_state_dict(encoder.state_dict())
    for number in range(len(SECONDS)):
        alone = embedded(encoder.embed, waveform_of(data, number))
        np.testing.assert_allclose(found[number], alone, atol=2e-5 * np.abs(alone).max())
        waveform = torch.from_numpy(waveform_of(data, number))[None]
        with torch.no_grad():
            features, frames = encoder.frontend(waveform, torch.tensor([waveform.shape[1]]))
            double = exact.body.pool(exact.body.frame_layers(features.double(), frames))[0].numpy()
        np.testing.assert_allclose(found[number], double, atol=1e-4 * np.abs(double).max())
    # Longest first, and so in batches of several.
    assert Embeddings.open(tmp_path / "e").ids[0] == "s1-4"
    assert (tmp_path / "e" / "utt2spk").read_bytes() == (data / "utt2spk").read_bytes()
    card = json.loads((tmp_path / "e" / "embeddings.json").read_text())
    assert (card["what"], card["utterances"], card["source_digest"]) == ("embeddings", 7, embedder.digest)


@pytest.mark.parametrize("layer", [None, 1, 0])
@pytest.mark.parametrize("name", ["fbank", "vq_wav2vec"])
def test_an_encoder_without_embeddings_gives_means_over_time(data, tmp_path, layer, name):
    encoder = experiment(tmp_path / "exp", name)
    embedder = open_embedder(str(tmp_path / "exp"), layer=layer)
    place = encoder.num_layers if layer is None else layer
    assert embedder.what == f"means over time of layer {place}"
    extract(Manifest.open(data), embedder, tmp_path / "e", ExtractConfig(batch_seconds=4.0, **HERE), log=print)
    found = by_number(tmp_path / "e")
    for number in range(len(SECONDS)):
        waveform = torch.from_numpy(waveform_of(data, number))[None]
        with torch.no_grad():
            frames = encoder(waveform, torch.tensor([waveform.shape[1]])).layers[place][0]
        expected = frames.double().numpy().mean(axis=0)
        np.testing.assert_allclose(found[number], expected, atol=1e-5)


def test_an_encoder_that_counts_padding_hears_one_recording_at_a_time(data, tmp_path):
    encoder = experiment(tmp_path / "exp", "wav2vec2", conv_norm="group", legacy_norm=True)
    embedder = open_embedder(str(tmp_path / "exp"))
    extract(Manifest.open(data), embedder, tmp_path / "e", ExtractConfig(batch_seconds=4.0, **HERE), log=print)
    for number, row in by_number(tmp_path / "e").items():
        waveform = torch.from_numpy(waveform_of(data, number))[None]
        with torch.no_grad():
            frames = encoder(waveform, torch.tensor([waveform.shape[1]])).layers[-1][0]
        np.testing.assert_allclose(row, frames.mean(0), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_crops_are_even_and_short_ones_repeated(data, tmp_path, count):
    encoder = speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    config = ExtractConfig(crops=count, crop_duration=0.6, batch_seconds=4.0, **HERE)
    extract(Manifest.open(data), embedder, tmp_path / "e", config, log=print)
    store = Embeddings.open(tmp_path / "e")
    assert store.matrix.shape == (7, count, embedder.dim)
    size = round(0.6 * RATE)
    for number, rows in by_number(tmp_path / "e").items():
        waveform = waveform_of(data, number)
        while len(waveform) < size:
            waveform = np.concatenate([waveform, waveform_of(data, number)])
        if SECONDS[number] < 0.6:
            waveform = waveform[:size]
        for crop, row in enumerate(rows):
            start = round(crop * (len(waveform) - size) / max(count - 1, 1))
            expected = embedded(encoder.embed, waveform[start : start + size])
            np.testing.assert_allclose(row, expected, atol=2e-5 * np.abs(expected).max())


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_parts_of_a_batch_side_by_side_give_what_the_batch_gives(data, tmp_path):
    speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    calls = []

    def embed(waveform, lengths):
        calls.append((len(waveform), torch.get_num_threads()))
        return embedder.embed(waveform, lengths)

    watched = replace(embedder, embed=embed)
    extract(Manifest.open(data), watched, tmp_path / "parts", ExtractConfig(batch_seconds=14.0, **HERE), log=print)
    assert sorted(calls) == [(2, 1), (2, 1), (3, 1)]
    assert torch.get_num_threads() == 3
    elsewhere = replace(watched, device="cuda")  # where one call does all
    extract(Manifest.open(data), elsewhere, tmp_path / "whole", ExtractConfig(batch_seconds=14.0, **HERE), log=print)
    assert calls[3:] == [(7, 3)]
    parts, whole = Embeddings.open(tmp_path / "parts"), Embeddings.open(tmp_path / "whole")
    assert parts.ids == whole.ids
    np.testing.assert_allclose(parts.matrix, whole.matrix, atol=2e-6 * np.abs(whole.matrix).max())


def test_bfloat16_is_close_and_said(data, tmp_path):
    speaker_encoder(tmp_path / "exp")
    for precision in ("fp32", "bf16"):
        embedder = open_embedder(str(tmp_path / "exp"), precision=precision)
        extract(Manifest.open(data), embedder, tmp_path / precision, ExtractConfig(**HERE), log=print)
        assert json.loads((tmp_path / precision / "embeddings.json").read_text())["precision"] == precision
    exact, rounded = (Embeddings.open(tmp_path / name).matrix for name in ("fp32", "bf16"))
    cosines = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert rounded.dtype == np.float32
    assert 0.999 < cosines.min() < cosines.max()
    assert np.abs(exact - rounded).max() > 1e-6 * np.abs(exact).max()


def test_crops_alone_are_decoded_unless_they_cover_the_utterance(data):
    cuts = []

    class Stored:
        duration = 2.0

        @property
        def waveform(self):
            raise AssertionError("decoded whole")

        def cut(self, start, seconds):
            cuts.append((start, seconds))
            return np.ones(round(seconds * RATE), np.float32)

    crops = EvenCrops(3, 8000, RATE)
    assert crops.views(Stored(), None)["waveform"].shape == (3, 8000)
    assert cuts == [(0.0, 0.5), (0.75, 0.5), (1.5, 0.5)]
    with pytest.raises(AssertionError, match="decoded whole"):
        EvenCrops(4, 8000, RATE).views(Stored(), None)


def test_batches_of_crops_do_not_grow_where_utterances_are_short(data, tmp_path):
    speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    sizes = []

    def embed(waveform, lengths):
        sizes.append(tuple(waveform.shape))
        return embedder.embed(waveform, lengths)

    watched = type(embedder)(**{**vars(embedder), "embed": embed})
    config = ExtractConfig(crops=4, crop_duration=0.5, batch_seconds=4.0, **HERE)
    extract(Manifest.open(data), watched, tmp_path / "e", config, log=print)
    assert sizes == [(8, 8000)] * 3 + [(4, 8000)]
    source = _AtLeast(Manifest.open(data), 1.0)
    assert source.durations.min() == 1.0
    assert source.durations is source.durations  # asked for with every utterance


def test_bad_recordings_are_named_left_out_or_too_many(data, tmp_path):
    speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    (tmp_path / "data").mkdir()
    for name in ("wav.scp", "utt2spk", "utt2dur"):
        (tmp_path / "data" / name).write_text((data / name).read_text())
    scp = tmp_path / "data" / "wav.scp"
    scp.write_text(scp.read_text().replace(f"{data.parent}/3.wav", f"{tmp_path}/silent.wav"))
    write_audio(tmp_path / "silent.wav", np.zeros(14400), RATE)
    manifest = Manifest.open(tmp_path / "data")
    said = []
    for name, crops in (("whole", {}), ("crops", {"crops": 2, "crop_duration": 0.3})):
        config = ExtractConfig(num_workers=0, max_bad_fraction=0.2, **crops)
        count, bad = extract(manifest, embedder, tmp_path / name, config, log=said.append)
        assert (count, list(bad)) == (6, ["s0-3"])
        assert "s0-3" not in Embeddings.open(tmp_path / name).ids
        assert list(json.loads((tmp_path / name / "embeddings.json").read_text())["left_out"]) == ["s0-3"]
    assert len(said) == 2
    assert all(line.startswith("left out s0-3: ") and "silent" in line for line in said)
    with pytest.raises(ValueError, match="1 of 7 utterances cannot be used"):
        extract(manifest, embedder, tmp_path / "none", ExtractConfig(**HERE), log=said.append)
    assert not (tmp_path / "none" / "embeddings.npy").exists()


def test_shards_give_the_same(data, tmp_path):
    speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    write_shards(Manifest.open(data), tmp_path / "shards")
    for name, source in (("plain", data), ("packed", tmp_path / "shards")):
        extract(Manifest.open(source), embedder, tmp_path / name, ExtractConfig(**HERE), log=print)
    plain, packed = Embeddings.open(tmp_path / "plain"), Embeddings.open(tmp_path / "packed")
    assert plain.ids == packed.ids
    np.testing.assert_array_equal(plain.matrix, packed.matrix)
    assert plain.speakers()[1] == packed.speakers()[1]


def test_random_weights_come_without_the_statistics_of_the_trained_ones(data, tmp_path):
    def spoil(encoder):
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.fill_(1e4)

    experiment(tmp_path / "exp", "thin_resnet34", change=spoil)
    torch.manual_seed(5)
    fresh = ThinResNet34(ThinResNet34.Config.tiny()).eval()
    waveform = waveform_of(data, 0)
    found = embedded(open_embedder(f"random:{tmp_path / 'exp'}", seed=5).embed, waveform)
    expected = embedded(fresh.embed, waveform)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_what_cannot_be_is_refused(data, tmp_path):
    speaker_encoder(tmp_path / "voice")
    experiment(tmp_path / "ssl", "fbank")
    with pytest.raises(ValueError, match="has embeddings of its own; leave it out"):
        open_embedder(str(tmp_path / "voice"), layer=1)
    with pytest.raises(ValueError, match="layer 9: .* has layers 0 to"):
        open_embedder(str(tmp_path / "ssl"), layer=9)
    for crops in ((3, None), (None, 1.0), (0, 1.0), (3, 0.0)):
        with pytest.raises(ValueError, match="crops? .*: give"):
            ExtractConfig(*crops)
    embedder = open_embedder(str(tmp_path / "voice"))
    manifest = Manifest.open(data)
    with pytest.raises(ValueError, match="have no frame; give at least"):
        extract(manifest, embedder, tmp_path / "e", ExtractConfig(crops=2, crop_duration=0.01), log=print)
    with pytest.raises(ValueError, match="give a folder for them"):
        extract(manifest, embedder, tmp_path / "e.npy", ExtractConfig(), log=print)


def test_speakers_of_other_data_do_not_stay(data, tmp_path):
    speaker_encoder(tmp_path / "exp")
    embedder = open_embedder(str(tmp_path / "exp"))
    extract(Manifest.open(data), embedder, tmp_path / "e", ExtractConfig(**HERE), log=print)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "wav.scp").write_text(f"x {data.parent}/0.wav\n")
    extract(Manifest.open(tmp_path / "bare"), embedder, tmp_path / "e", ExtractConfig(**HERE), log=print)
    assert Embeddings.open(tmp_path / "e").ids == ["x"]
    assert not (tmp_path / "e" / "utt2spk").exists()
