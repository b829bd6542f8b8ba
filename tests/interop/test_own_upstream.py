"""`FILE.py:CLASS`: classes of anybody's as encoders, what is said of those that cannot be, and that no file may name one."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from command import audiossl, complains
from corpora import noises, write_corpus

from audiossl.config import write_toml
from audiossl.diagnostics.sources import open_features
from audiossl.interop.digest import encoder_digest
from audiossl.interop.encoder import load_encoder
from audiossl.interop.own_upstream import _of_file, _run
from audiossl.interop.s3prl_upstream import Upstream
from audiossl.units.codebook import load

CODE = """\
from pathlib import Path

import torch
from beside import WIDTH
from torch import nn

from audiossl.contracts import EncoderOutput


class AsS3prl(nn.Module):
    def __init__(self, ckpt=None, **options):
        super().__init__()
        self.scale = 1.0 if ckpt is None else torch.load(ckpt)["scale"]
        self.frames = nn.Conv1d(1, WIDTH, 400, 160, padding=200)

    def forward(self, waveforms):
        batch = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        first = self.scale * self.frames(batch.unsqueeze(1)).transpose(1, 2)
        return {"hidden_states": [first, first.tanh()]}


class Listing(AsS3prl):
    def get_downsample_rates(self, key):
        return 160

    def forward(self, waveforms):
        return super().forward(waveforms)["hidden_states"]


class ByContract(nn.Module):
    dim, stride, sample_rate, num_layers = 8, 100, 8000, 1

    def num_frames(self, samples):
        return samples // 100

    def forward(self, waveform, lengths):
        frames = waveform[:, : waveform.shape[1] // 100 * 100].unflatten(1, (-1, 100))[..., :8]
        return EncoderOutput([frames, frames.tanh()], lengths // 100)


class Embedding(ByContract):
    embedding_dim = 8

    def embed(self, waveform, lengths):
        return self(waveform, lengths).layers[1].mean(dim=1)


class Session(Listing):
    def __init__(self, ckpt=None, device="cpu", table="it.ckpt", folder="hub", mode="a"):
        super().__init__()
        self.session, self.path = [ckpt and Path(ckpt).read_bytes()], ckpt
        self.options = {"device": device, "table": table, "folders": [folder], "mode": mode}


class Hopping(nn.Module):
    def __init__(self, hop, repeats=1):
        super().__init__()
        self.hop, self.repeats = hop, repeats

    def forward(self, waveforms):
        count = int((len(waveforms[0]) - 400) / self.hop) + 1
        return torch.zeros(len(waveforms), count * self.repeats, 4)


class Patches(nn.Module):
    def __init__(self, kernel, padding):
        super().__init__()
        self.frames = nn.Conv1d(1, 64, kernel, 320, padding=padding)

    def forward(self, waveforms):
        batch = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        return self.frames(batch.unsqueeze(1)).transpose(1, 2)


class Patched(Patches):
    def __init__(self):
        super().__init__(320, 0)


class Overlapping(Patches):
    def __init__(self):
        super().__init__(400, 40)


class Nothing(nn.Module):
    def forward(self, waveforms):
        return {}


class Plain:
    pass


def make():
    return Listing()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    (root / "hub").mkdir()
    (root / "hub" / "mine.py").write_text(CODE)
    (root / "hub" / "beside.py").write_text("WIDTH = 6\n")
    (root / "hub" / "broken.py").write_text("import no_such_thing\n")
    (root / "hub" / "unsound.py").write_text("def f(:\n")
    torch.save({"scale": 2.0}, root / "it.ckpt")
    write_corpus(root, noises(range(8000, 11600, 900)), speakers=("s0", "s1"))
    return root


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])


def opened(name, seed=0):
    return open_features(f"hub/mine.py:{name}", seed=seed, device="cpu", train=None)


@pytest.mark.parametrize("name", ["AsS3prl", "Listing", "make", "ByContract"])
def test_classes_and_functions(name):
    source = opened(name)
    contract = name == "ByContract"
    assert (source.dim, source.num_layers, source.stride) == ((8, 2, 100) if contract else (6, 2, 160))
    assert source.sample_rate == (8000 if contract else 16000)
    waveform, lengths = torch.randn(2, 4000), torch.tensor([4000, 1600])
    output = source.extract(waveform, lengths)
    assert output.lengths.tolist() == ([40, 16] if contract else [25, 10])
    alone = source.extract(waveform[1:, :1600], lengths[1:])
    torch.testing.assert_close(output.layers[1][1, : output.lengths[1]], alone.layers[1][0])
    assert opened(name).digest == source.digest


@pytest.mark.parametrize("name", ["Patched", "Overlapping"])
def test_a_hop_that_begins_without_a_frame_of_its_own_does_not_hear_the_padding(name):
    source = opened(name)
    assert source.stride == 320
    waveform, lengths = torch.randn(2, 48_000), torch.tensor([48_000, 8200])
    waveform[1, 8200:] = 0
    beside = source.extract(waveform, lengths)
    alone = source.extract(waveform[1:, :8200], lengths[1:])
    assert beside.lengths[1] == alone.lengths[0] == 26
    torch.testing.assert_close(beside.layers[0][1, :26], alone.layers[0][0])


def test_what_its_features_depend_on_is_in_its_digest(place):
    digests = [opened(name, seed).digest for name, seed in (("Listing", 0), ("Listing", 1), ("Listing@it.ckpt", 0))]
    code = (place / "hub" / "mine.py").read_text()
    (place / "hub" / "mine.py").write_text(code.replace("tanh", "sin"))
    digests.append(opened("Listing").digest)
    (place / "hub" / "mine.py").write_text(code)
    assert len({*digests}) == 4


def test_checkpoints_count_by_what_they_hold(place, tmp_path):
    def digest(checkpoint):
        return opened(f"Session@{checkpoint}").digest

    for name, content in (("one", "1"), ("other", "2"), ("same", "1")):
        (tmp_path / name).write_text(content)
    assert digest(tmp_path / "one") == digest(tmp_path / "same") != digest(tmp_path / "other")
    before = digest(tmp_path / "one")
    (tmp_path / "one").write_text("3")
    assert digest(tmp_path / "one") != before


def test_folders_count_by_the_names_and_contents_of_their_files(place, tmp_path):
    def digest():
        return opened(f"InFolder@{tmp_path}").digest

    (place / "hub" / "mine.py").write_text(
        CODE + "\n\nclass InFolder(Listing):\n    def __init__(self, ckpt):\n        super().__init__()\n"
    )
    (tmp_path / "inside").mkdir()
    digests = [digest()]
    for name, content in (("a", "1"), ("inside/b", "1"), ("a", "2")):
        (tmp_path / name).write_text(content)
        digests.append(digest())
    assert digest() == digests[-1]
    (place / "hub" / "mine.py").write_text(CODE)
    assert len({*digests}) == 4


def test_devices_and_spellings_of_paths_do_not_count(place):
    session = _of_file(_run(place / "hub" / "mine.py"), "Session", "")

    def digest(**options):
        torch.manual_seed(0)
        return encoder_digest(Upstream(session(**options), "Session"))

    first = digest()
    assert first == digest(device="cuda:1") == digest(table=str(place / "it.ckpt")) == digest(folder=str(place / "hub"))
    assert (
        len({first, digest(mode="b"), digest(table="hub/mine.py"), digest(folder="data"), digest(mode="b" * 5000)}) == 5
    )


@pytest.mark.parametrize("hop", [160, 320, 441, 480, 560, 640, 720, 960, 1200, 1920])
def test_hops_are_measured_exactly(place, hop):
    hopping = _of_file(_run(place / "hub" / "mine.py"), "Hopping", "")
    assert Upstream(hopping(hop), "x").stride == hop
    if hop % 2 == 0:
        assert Upstream(hopping(hop, repeats=2), "x").stride == hop // 2


@pytest.mark.parametrize("hop", [320.01, 319.99, 441.5])
def test_hops_that_are_no_number_of_samples(place, hop):
    hopping = _of_file(_run(place / "hub" / "mine.py"), "Hopping", "")
    with pytest.raises(ValueError, match="not a whole number of samples apart; write get_downsample_rates$"):
        Upstream(hopping(hop), "x")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub/mine.py", r"^hub/mine\.py: is code; name the class in it that is the upstream: hub/mine\.py:CLASS$"),
        ("hub", r"^hub: is neither an experiment .*; a class of your own in it is named FILE\.py:CLASS$"),
        ("mine:Listing", r"^mine:Listing: no such experiment .*one of your own FILE\.py:CLASS"),
        ("hub/mine.py:Listin", r"has no class Listin; did you mean 'Listing'\?$"),
        ("hub/nothing.py:Mine", r"there is no file hub/nothing\.py; give the path"),
        ("hub/broken.py:Mine", r"^hub/broken\.py: cannot be run: ModuleNotFoundError: No module named 'no_such_thing'$"),
        ("hub/unsound.py:Mine", r"^hub/unsound\.py: cannot be run: SyntaxError: "),
        ("hub/mine.py:Nothing", r"cannot be used: gives no layers; return \{\"hidden_states\": "),
        ("hub/mine.py:Plain", r"cannot be used: is a Plain, not a torch module$"),
        ("hub/mine.py:ByContract@it.ckpt", r"cannot be used: has no parameter ckpt for a checkpoint; add one"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(source, message):
    with pytest.raises(ValueError, match=message) as error:
        open_features(source, seed=0, device="cpu", train=None)
    assert "\n" not in str(error.value)


def test_no_file_can_name_code_to_run(place, tmp_path):
    (place / "trap.py").write_text("raise SystemExit('was run')\n")
    for source in ("trap.py:Mine", "random:trap.py:Mine"):
        with pytest.raises(ValueError, match=r"code of your own, .* only where the command line names it"):
            load_encoder(source)
    init = {"init": "trap.py:Mine", "init_seed": 0}
    table = {"name": "wav2vec2", "num_layers": 1, "dim": 32, "num_heads": 4, "ffn_dim": 64}
    (tmp_path / "checkpoints/step_00000001").mkdir(parents=True)
    (tmp_path / "checkpoints/step_00000001/model.safetensors").touch()
    write_toml(tmp_path / "config.toml", {"encoder": table, "adapter": {"name": "frozen"}, "run": init})
    with pytest.raises(ValueError, match="only where the command line names it"):
        load_encoder(tmp_path)


def test_units_of_one_that_embeds_and_cannot_stop_early(place, tmp_path):
    fit = ("units", "fit", "--data", place / "data", "--out", tmp_path / "book", "--clusters", 4, "--layer", 1)
    code, _, err = audiossl(*fit, "--encoder", f"{place}/hub/mine.py:Embedding", "--num-workers", 0, "--device", "cpu")
    assert code == 0, err


def test_embeddings_and_units(place, tmp_path):
    source, quick = f"{place}/hub/mine.py:Listing", ("--num-workers", 0, "--device", "cpu")
    code, _, err = audiossl("embed", source, place / "data", "--out", tmp_path / "e", *quick)
    assert code == 0, err
    assert json.loads((tmp_path / "e/selection.json").read_text()) == {"selection": "none"}
    fit = ("units", "fit", "--data", place / "data", "--out", tmp_path / "book", "--clusters", 4, *quick)
    code, _, err = audiossl(*fit, "--encoder", source, "--layer", 1)
    assert code == 0, err
    assert load(tmp_path / "book").card.encoder == source
    apply = ("units", "apply", "--data", place / "data", "--codebook", tmp_path / "book", "--name", "km", *quick)
    assert "only where the command line names it" in complains(*apply)
    code, _, err = audiossl(*apply, "--encoder", source)
    assert code == 0, err
