"""Frames are those of each recording alone, whatever shares its batch, in any number of worker processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.features import mfcc39
from audiossl.units.features import EncoderFeatures, MFCCFeatures, make_features
from audiossl.units.stream import StreamConfig, stream_frames


def tiny(**changes):
    torch.manual_seed(0)
    config = Wav2Vec2.Config.tiny()
    return Wav2Vec2(Wav2Vec2.Config(**{**vars(config), **changes}))


def by_utterance(manifest, features, *, batch_seconds=5.0, num_workers=0, log=print):
    found = {}
    stream = StreamConfig(batch_seconds, num_workers)
    for batch in stream_frames(manifest, features, stream, label="test", log=log):
        assert len(batch.frames) == batch.lengths.sum()
        parts = np.split(batch.frames.numpy(), np.cumsum(batch.lengths)[:-1])
        found |= dict(zip(batch.ids, parts, strict=True))
    return found


def alone(manifest, index):
    waveform = torch.from_numpy(manifest.audio(index, sample_rate=16000))[None]
    return waveform, torch.tensor([waveform.shape[1]])


def test_mfcc_of_every_utterance(shared_corpus):
    manifest = Manifest.open(shared_corpus)
    found = by_utterance(manifest, MFCCFeatures())
    assert sorted(found) == list(manifest.ids)
    for index, utterance in enumerate(manifest.ids):
        expected = mfcc39(*alone(manifest, index), full_scale=1.0)[0][0].numpy()
        assert found[utterance].dtype == np.float32
        assert np.allclose(found[utterance], expected, atol=2e-3)  # cepstra reach 100: float32 keeps 1e-5 of it


def test_mfcc_of_a_codebook_from_before_its_card_told_the_scale(shared_corpus):
    waveform, lengths = alone(Manifest.open(shared_corpus), 0)
    torch.testing.assert_close(MFCCFeatures(None)(waveform, lengths)[0], mfcc39(waveform, lengths)[0])


def test_workers_change_nothing(shared_corpus):
    manifest = Manifest.open(shared_corpus)
    here, there = (by_utterance(manifest, MFCCFeatures(), num_workers=workers) for workers in (0, 2))
    assert list(here) == list(there)
    assert all(np.array_equal(here[utterance], there[utterance]) for utterance in here)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_encoder_layer(shared_corpus, layer):
    """Layer n is the output of block n counted from 1, in eval mode, whatever the batch."""
    manifest, encoder = Manifest.open(shared_corpus), tiny().train()
    features = EncoderFeatures(encoder, source="exp", layer=layer)
    assert not features.one_by_one
    assert (features.rate, features.dim, features.min_samples) == (50.0, 32, 400)
    found = by_utterance(manifest, features)
    for index in (0, 5, 11):
        with torch.no_grad():
            expected = encoder(*alone(manifest, index)).layers[layer][0].numpy()
        assert np.allclose(found[manifest.ids[index]], expected, atol=1e-4)


def test_encoder_that_looks_at_padding_runs_one_by_one(shared_corpus):
    manifest, encoder = Manifest.open(shared_corpus), tiny(legacy_norm=True)
    features = EncoderFeatures(encoder, source="exp", layer=2)
    assert features.one_by_one
    small, large = (by_utterance(manifest, features, batch_seconds=seconds) for seconds in (1.0, 30.0))
    for utterance in small:
        assert np.array_equal(small[utterance], large[utterance])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mfcc", "exp/a", 0), "takes no encoder"),
        (("mfcc", "", 6), "no layer"),
        (("encoder", "", 6), "no encoder is given; .* --units.encoder"),
    ],
)
def test_parts_that_do_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_features(*arguments)


def test_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layer 3: exp has layers 0 to 2"):
        EncoderFeatures(tiny(), source="exp", layer=3)


def test_bad_recordings_are_named_and_limited(new_corpus, tmp_path):
    data = new_corpus(tmp_path, num_utterances=10)
    manifest = Manifest.open(data)
    write_audio(tmp_path / "audio03.wav", np.full(300, 0.1, dtype=np.float32), 16000)
    lines = []
    found = {}
    stream = StreamConfig(5.0, 0, max_bad_fraction=0.1)
    for batch in stream_frames(manifest, MFCCFeatures(), stream, label="test", log=lines.append):
        found |= dict.fromkeys(batch.ids)
    assert len(found) == 9
    assert lines == ["left out spk0-03: 0.019 s is too short for one frame (0.025 s); leave it out"]
    with pytest.raises(ValueError, match="1 of 10 utterances cannot be used"):
        list(stream_frames(manifest, MFCCFeatures(), StreamConfig(5.0, 0), label="test", log=print))


def test_what_lasts_less_than_a_frame_is_counted_and_is_not_damaged(new_corpus, tmp_path):
    data = new_corpus(tmp_path, num_utterances=4)
    for number in (1, 2):
        write_audio(tmp_path / f"audio{number:02d}.wav", np.full(5, 0.1, dtype=np.float32), 16000)
    (data / "utt2dur").unlink()
    lines = []
    assert sorted(by_utterance(Manifest.open(data), MFCCFeatures(), log=lines.append)) == ["spk0-00", "spk0-03"]
    assert lines == [f"{data}: left out: 2 too short for one frame (0.025 s)"]
    with pytest.raises(ValueError, match="every utterance is too short for one frame"):
        by_utterance(Manifest.open(data).subset(np.array([2, 3])), MFCCFeatures())


def test_nan_is_refused(shared_corpus):
    encoder = tiny()
    features = EncoderFeatures(encoder, source="exp", layer=2)
    torch.nn.init.constant_(encoder.projection.weight, torch.nan)
    with pytest.raises(ValueError, match=r"features of spk.* hold nan or infinity"):
        by_utterance(Manifest.open(shared_corpus), features)
