"""`audiossl features`: what the files hold and what lies beside them, runs that go on, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command import audiossl, complains, fails, succeed
from corpora import noises, write_corpus, write_encoder
from disk import file_limit

import audiossl as package
from audiossl.data.audio import read_audio
from audiossl.data.kaldi import file_stem, read_table
from audiossl.diagnostics import frame_files
from audiossl.nn.features import fbank

LENGTHS = (16000, 5000, 11000, 7777, 9000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    write_corpus(root, noises(LENGTHS), speakers=("s0", "s1"))
    write_corpus(root / "more", noises((6000, 8000), seed=1), speakers=("r",))
    write_encoder(root / "exp", seed=5)
    write_encoder(root / "legacy", seed=5, legacy_norm=True)
    write_encoder(root / "large", seed=5, pre_norm=True)
    write_encoder(root / "ecapa", "ecapa_tdnn", seed=5)
    return root


def words(source, *rest):
    workers = () if "--num-workers" in rest else ("--num-workers", 0)
    return ["features", source, *rest, *workers, "--device", "cpu"]


def layers_of(source, recording):
    """Every layer of a recording by itself: [(frame, dim)]."""
    encoder = package.load(source).eval()
    waveform = torch.from_numpy(read_audio(recording, sample_rate=encoder.sample_rate))[None]
    with torch.no_grad():
        return [layer[0].numpy() for layer in encoder(waveform, torch.tensor([waveform.shape[1]])).layers]


def ids(lengths=LENGTHS):
    return [f"s{number % 2}-{number}" for number in range(len(lengths))]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def near(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["exp", "legacy", "large", "ecapa"])
@pytest.mark.parametrize("layer", [0, 1, 2, None])
def test_frames_are_those_of_each_recording_alone(corpus, tmp_path, name, layer):
    chosen = () if layer is None else ("--layer", layer)
    for seconds in (1, 30):
        out = tmp_path / str(seconds)
        succeed(*words(corpus / name, corpus / "data", "--out", out, *chosen, "--batch-seconds", seconds))
        for number, utterance in enumerate(ids()):
            expected = layers_of(corpus / name, corpus / f"{number}.wav")[-1 if layer is None else layer]
            near(np.load(out / f"{utterance}.npy"), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_all_layers_the_list_and_the_card(corpus, tmp_path, workers):
    out, source = tmp_path / "f", corpus / "exp"
    data = [corpus / "data", corpus / "more" / "data"]
    said, _ = succeed(*words(source, *data, "--out", out, "--layer", "all", "--json", "--num-workers", workers))
    for number, utterance in enumerate(ids()):
        near(np.load(out / f"{utterance}.npy"), np.stack(layers_of(source, corpus / f"{number}.wav")))
    names = sorted([*ids(), "r-0", "r-1"])
    assert [(key, place) for _, key, place in read_table(out / "feats.scp")] == [
        (name, str(out / f"{name}.npy")) for name in names
    ]
    card = json.loads((out / "frames.json").read_text())
    assert json.loads(said) == {"frames": str(out), **card}
    digest = card.pop("source_digest")
    assert len(digest) == 64
    assert card.pop("date")
    assert all(len(one) == 64 for one in card["data"].values())
    card["data"] = [*card["data"]]
    assert card.pop("command")
    assert card == {
        "source": str(source), "layer": "all", "layers": 3, "dim": 32, "dtype": "float32", "sample_rate": 16000, "stride": 320,
        "rate": 50.0, "data": [*map(str, data)], "utterances": 7, "left_out": {},
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"feats.scp", "frames.json", *(f"{name}.npy" for name in names)}


def test_half_precision_and_what_is_said(corpus, tmp_path):
    said, _ = succeed(
        *words(corpus / "exp", corpus / "data", "--out", tmp_path / "f", "--layer", 1, "--dtype", "float16")
    )
    assert said == f"{tmp_path / 'f'}: 5 utterances, layer 1 of 32 numbers at 50 Hz, 0 left out\n"
    found = np.load(tmp_path / "f" / "s0-0.npy")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, layers_of(corpus / "exp", corpus / "0.wav")[1], rtol=1e-3, atol=1e-4)


def test_a_filterbank_has_one_layer(corpus, tmp_path):
    succeed(*words("fbank", corpus / "data", "--out", tmp_path / "f"))
    waveform = torch.from_numpy(read_audio(corpus / "1.wav", sample_rate=16000))[None]
    expected = fbank(waveform, torch.tensor([waveform.shape[1]]))[0][0].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "f" / "s1-1.npy"), expected, rtol=0, atol=1e-4)
    message = fails(*words("fbank", corpus / "data", "--out", tmp_path / "g", "--layer", 1))
    assert message == "audiossl: layer 1: fbank has layers 0 to 0; choose one of them"


def test_random_weights_follow_the_seed(corpus, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        succeed(
            *words(f"random:{corpus / 'exp'}", corpus / "data", "--out", tmp_path / name, "--seed", seed, "--layer", 1)
        )
    a, b, c = (np.load(tmp_path / name / "s0-0.npy") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_a_folder_of_transformers(corpus, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "hf")
    succeed(*words(f"transformers:{tmp_path / 'hf'}", corpus / "data", "--out", tmp_path / "f", "--layer", 1))
    near(np.load(tmp_path / "f" / "s0-2.npy"), layers_of(tmp_path / "hf", corpus / "2.wav")[1])
    message = fails(*words(f"transformers:{tmp_path}", corpus / "data", "--out", tmp_path / "g"))
    assert "has no config.json; give a folder that transformers wrote" in message


def test_names_that_no_file_may_have(corpus, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    names = ["../up", "a%2Fb", "a/b", "über"]
    assert len({file_stem(name) for name in names}) == 4
    (data / "wav.scp").write_text("".join(f"{name} {corpus / f'{k}.wav'}\n" for k, name in enumerate(names)))
    (data / "utt2spk").write_text("".join(f"{name} {name}\n" for name in names))
    succeed(*words(corpus / "exp", data, "--out", tmp_path / "f", "--layer", 1))
    assert {path.name for path in (tmp_path / "f").glob("*.npy")} == {
        "..%2Fup.npy", "a%252Fb.npy", "a%2Fb.npy", "über.npy",
    }  # fmt: skip
    rows = [(key, place) for _, key, place in read_table(tmp_path / "f" / "feats.scp")]
    assert [key for key, _ in rows] == names
    for number, (_, place) in enumerate(rows):
        near(np.load(place), layers_of(corpus / "exp", corpus / f"{number}.wav")[1])


def test_unusable_recordings_are_named_and_left_out(tmp_path, corpus):
    data = write_corpus(tmp_path, noises(LENGTHS), speakers=("s0", "s1"))
    (tmp_path / "1.wav").unlink()
    base = words(corpus / "exp", data, "--out", tmp_path / "f")
    message = fails(*base)
    assert "1 of 5 utterances cannot be used, more than max_bad_fraction 0.01 allows" in message
    assert not (tmp_path / "f" / "feats.scp").exists()
    # What a second run looks at is the one recording alone, and yet a fifth.
    for _ in range(2):
        said, err = succeed(*base, "--max-bad-fraction", "0.2", "--json")
        assert "left out s1-1: " in err
        card = json.loads(said)
        assert (card["utterances"], [*card["left_out"]]) == (4, ["s1-1"])
        assert [key for _, key, _ in read_table(tmp_path / "f" / "feats.scp")] == sorted({*ids()} - {"s1-1"})
    for number in range(5):
        (tmp_path / f"{number}.wav").unlink(missing_ok=True)
    message = fails(*words(corpus / "exp", data, "--out", tmp_path / "g", "--max-bad-fraction", 1))
    assert message.endswith("none of its 5 utterances can be used; see above")


def test_a_killed_run_goes_on(corpus, tmp_path, monkeypatch):
    base = words(corpus / "exp", corpus / "data", "--out", tmp_path / "f", "--batch-seconds", 1)
    succeed(*words(corpus / "exp", corpus / "data", "--out", tmp_path / "whole"))
    write, written = np.save, []

    def dies(file, array):
        if len(written) == 2:
            file.write(b"half")
            raise KeyboardInterrupt
        written.append(write(file, array))

    with monkeypatch.context() as patch:
        patch.setattr(frame_files.np, "save", dies)
        assert audiossl(*base)[0] == 130
    out = tmp_path / "f"
    assert len(list(out.glob("*.npy"))) == 2
    assert {path.name for path in out.iterdir() if path.suffix != ".npy"} == {"frames.json"}
    first = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    _, err = succeed(*base)
    assert f"{out}: has the frames of 2 of 5 utterances of {corpus / 'data'} already\n" in err
    assert {path: path.stat().st_mtime_ns for path in first} == first
    for utterance in ids():
        near(np.load(out / f"{utterance}.npy"), np.load(tmp_path / "whole" / f"{utterance}.npy"))
    # Once all is there, no batch is made.
    monkeypatch.setattr(frame_files, "one_epoch", None)
    succeed(*base)


def test_other_frames_are_not_replaced(corpus, tmp_path):
    source, data, out = corpus / "exp", corpus / "data", tmp_path / "f"
    succeed(*words(source, data, "--out", out, "--layer", 1))
    before = files(out)
    for other, key in (
        (words(source, data, "--out", out, "--layer", 2), "layer 1, not 2"),
        (words(source, data, "--out", out, "--layer", "all"), "layer 1, not all"),
        (words(source, data, "--out", out, "--layer", 1, "--dtype", "float16"), "dtype float32, not float16"),
        (words(corpus / "legacy", data, "--out", out, "--layer", 1), "source_digest "),
        (words(source, corpus / "more" / "data", "--out", out, "--layer", 1), f"data {data} is not among"),
    ):
        message = fails(*other)
        assert message.startswith(f"audiossl: {out}: holds other frames already ({key}")
        assert message.endswith("; choose another --out, or --overwrite")
    assert files(out) == before
    # Further data may come to it; no others, which might have the same names.
    succeed(*words(source, data, corpus / "more" / "data", "--out", out, "--layer", 1))
    assert len(list(read_table(out / "feats.scp"))) == 7
    succeed(*words(source, data, "--out", out, "--layer", 2, "--overwrite"))
    assert {path.stem for path in out.glob("*.npy")} == {*ids()}
    near(np.load(out / "s0-0.npy"), layers_of(source, corpus / "0.wav")[2])


def test_other_weights_under_the_same_name(corpus, tmp_path):
    write_encoder(tmp_path / "exp", seed=1)
    base = words(tmp_path / "exp", corpus / "data", "--out", tmp_path / "f")
    succeed(*base)
    write_encoder(tmp_path / "exp", seed=2)
    assert "(source_digest " in fails(*base)
    succeed(*base, "--overwrite")
    near(np.load(tmp_path / "f" / "s0-0.npy"), layers_of(tmp_path / "exp", corpus / "0.wav")[-1])


def killed_after(count, monkeypatch, *given):
    """Run the verb until it wrote so many files."""
    write, written = np.save, []

    def dies(file, array):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(write(file, array))

    with monkeypatch.context() as patch:
        patch.setattr(frame_files.np, "save", dies)
        assert audiossl(*given)[0] == 130


def test_overwrite_leaves_nothing_of_a_killed_run(corpus, tmp_path, monkeypatch):
    data, more, out = corpus / "data", corpus / "more" / "data", tmp_path / "f"
    killed_after(3, monkeypatch, *words(corpus / "exp", data, "--out", out))
    assert not (out / "feats.scp").exists()
    succeed(*words(corpus / "large", more, "--out", out, "--overwrite"))
    assert {path.stem for path in out.glob("*.npy")} == {"r-0", "r-1"}
    succeed(*words(corpus / "large", more, data, "--out", out))
    for number, utterance in enumerate(ids()):
        near(np.load(out / f"{utterance}.npy"), layers_of(corpus / "large", corpus / f"{number}.wav")[-1])


def test_recordings_made_again_under_their_names(corpus, tmp_path):
    data = write_corpus(tmp_path, noises(LENGTHS), speakers=("s0", "s1"))
    base = words(corpus / "exp", data, "--out", tmp_path / "f")
    succeed(*base)
    write_corpus(tmp_path, noises(LENGTHS, seed=9), speakers=("s0", "s1"), out=tmp_path / "again")
    before = files(tmp_path / "f")
    for given in (base, words(corpus / "exp", data, corpus / "more" / "data", "--out", tmp_path / "f")):
        assert f"f: holds other frames already (data {data} has changed since); choose another" in fails(*given)
    assert files(tmp_path / "f") == before
    succeed(*base, "--overwrite")
    near(np.load(tmp_path / "f" / "s0-0.npy"), layers_of(corpus / "exp", tmp_path / "0.wav")[-1])


def test_the_same_encoder_and_data_by_other_spellings(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(corpus)
    (tmp_path / "link").symlink_to(corpus / "data")
    for source, data in (("exp", "data"), ("exp/", "./data"), ("./exp", tmp_path / "link"), (corpus / "exp", "data/")):
        succeed(*words(source, data, "--out", tmp_path / "f"))
        assert json.loads((tmp_path / "f" / "frames.json").read_text())["source"] == str(source)


@pytest.mark.parametrize("data", [None, ["data/train"]])
def test_a_card_without_digests_of_the_data(corpus, tmp_path, data):
    base = words(corpus / "exp", corpus / "data", "--out", tmp_path)
    succeed(*base)
    card = json.loads((tmp_path / "frames.json").read_text())
    (tmp_path / "frames.json").write_text(json.dumps({**card, "data": data}))
    assert "does not say what recordings were read; choose another --out, or --overwrite" in fails(*base)
    succeed(*base, "--overwrite")


@pytest.mark.parametrize("name", ["feats.scp", "s0-0.npy", "mean.npy"])
def test_files_of_ones_own_are_not_replaced(corpus, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    base = words(corpus / "exp", corpus / "data", "--out", tmp_path)
    message = fails(*base)
    assert message.endswith(
        f"{name}: exists already, and no frames.json says what it was made of; choose another --out, or --overwrite"
    )
    assert files(tmp_path) == {name: b"mine"}
    succeed(*base, "--overwrite")
    assert (files(tmp_path)[name] == b"mine") == (name == "mean.npy")


def test_a_full_disk(corpus, tmp_path):
    base = words(corpus / "exp", corpus / "data", "--out", tmp_path / "f")
    with file_limit(4000):
        message = fails(*base)
    assert message.startswith(f"audiossl: {tmp_path / 'f'}/s")
    assert message.endswith(".npy: No space left on device; free space or choose another --out")
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"frames.json"}
    succeed(*base)


def test_programs_run_only_where_they_may(corpus, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(f"a cat {corpus / '0.wav'} |\n")
    (data / "utt2spk").write_text("a a\n")
    base = words(corpus / "exp", data, "--out", tmp_path / "f")
    assert "--allow-commands" in fails(*base)
    succeed(*base, "--allow-commands")
    near(np.load(tmp_path / "f" / "a.npy"), layers_of(corpus / "exp", corpus / "0.wav")[-1])


def test_frames_that_are_not_finite(corpus, tmp_path):
    def loud(encoder):
        with torch.no_grad():
            encoder.transformer.layers[-1].ffn_norm.weight.mul_(1e6)

    write_encoder(tmp_path / "loud", change=loud)
    base = words(tmp_path / "loud", corpus / "data", "--out", tmp_path / "f")
    message = fails(*base, "--dtype", "float16")
    assert message.endswith("gives nan or infinity in float16; check this recording and the encoder, or write float32")
    succeed(*base, "--overwrite")


def test_faults_are_one_line_each(corpus, tmp_path):
    source, data, out = corpus / "exp", corpus / "data", ("--out", tmp_path / "f")
    copy = tmp_path / "copy"
    write_corpus(tmp_path / "audio", noises(LENGTHS), speakers=("s0", "s1"), out=copy)
    cases = (
        ([source, *out], 2, "no data directory is given"),
        ([source, data, *out, "--layer", "last"], 2, "--layer"),
        ([source, data, *out, "--layer", "3"], 1, "has layers 0 to 2; choose one of them"),
        ([source, data, *out, "--layer", "-1"], 1, "has layers 0 to 2; choose one of them"),
        ([source, data, copy, *out], 1, f"{copy}: 's0-0' is in {data} as well; give each an --out of its own"),
        ([source, data, *out, "--max-bad-fraction", "2"], 1, "max_bad_fraction is 2"),
        ([source, data, *out, "--batch-seconds", "0"], 1, "batch_seconds is 0"),
        ([source, data, "--out", __file__], 1, "is a file, no folder; choose another --out"),
        ([corpus / "nowhere", data, *out], 1, "no such experiment"),
        ([source, corpus / "nowhere", *out], 1, "no data directory"),
        ([source, data, "--out", copy, "--overwrite"], 1, "is a data directory; choose another --out, such as"),
        ([source, data, *out, "--seed", "-1"], 2, "--seed -1 is negative"),
    )
    for given, status, message in cases:
        assert message in complains("features", *given, "--device", "cpu", status=status)
    assert not (tmp_path / "f").exists()
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "frames.json").write_text("[")
    assert "not valid JSON" in complains("features", source, data, *out, "--device", "cpu")
