"""The identity of an encoder: whatever changes its features changes it, and what does not leaves it as it is."""

from __future__ import annotations

import sys

import pytest
import torch
from corpora import write_encoder

from audiossl import registry
from audiossl.config import to_table, write_toml
from audiossl.diagnostics.sources import open_features
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.interop.digest import encoder_digest
from audiossl.interop.encoder import build_encoder, load_encoder, weights_hash

TINY = {"name": "wav2vec2", **to_table(registry.get("encoders", "wav2vec2").Config.tiny())}


def built(**changed):
    torch.manual_seed(0)
    return build_encoder({**TINY, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"normalise_waveform": True},
        {"num_heads": 1},
        {"legacy_norm": True},
        {"conv_strides": [5, 2, 2, 2, 2, 2, 1]},
        {"sample_rate": 24000},
    ],
)
def test_settings_count_beside_weights(changed):
    one, other = built(), built(**changed)
    assert weights_hash(one) == weights_hash(other)
    assert encoder_digest(one) != encoder_digest(other)


def test_what_changes_no_features_does_not_count():
    least = {key: value for key, value in TINY.items() if key not in {"normalise_waveform", "conv_strides", "alibi"}}
    torch.manual_seed(0)
    said_less = build_encoder(least)
    assert encoder_digest(built()) == encoder_digest(built(dropout=0.3, layer_drop=0.2)) == encoder_digest(said_less)


def test_an_encoder_inside_another_one_counts():
    def speaker(**changed):
        torch.manual_seed(0)
        table = {"name": "mhfa_speaker", "num_heads": 3, "compression_dim": 4, "embedding_dim": 8}
        return build_encoder({**table, "encoder": {**TINY, **changed}})

    assert encoder_digest(speaker()) == encoder_digest(speaker(dropout=0.3))
    assert weights_hash(speaker()) == weights_hash(speaker(num_heads=1))
    assert encoder_digest(speaker()) != encoder_digest(speaker(num_heads=1))


def fine_tuned(tmp_path, name, adapter, **options):
    """Write an experiment with adapters on `base`."""
    folder, cls = tmp_path / name, registry.get("adapters", adapter)
    inserted = cls(cls.Config(**options))
    encoder = load_encoder(tmp_path / "base")
    torch.manual_seed(1)
    inserted.insert(encoder)
    weights = {f"encoder.{key}": value for key, value in inserted.trainable_state(encoder).items()}
    save_checkpoint(folder, 1, weights, {}, keep=1)
    tables = {"encoder": TINY, "adapter": {"name": adapter, **options}, "run": {"init": str(tmp_path / "base"), "init_seed": 0}}  # fmt: skip
    write_toml(folder / "config.toml", tables)
    return load_encoder(folder)


def test_adapters_count_where_they_are_in_the_encoder(tmp_path):
    write_encoder(tmp_path / "base")
    one, other = fine_tuned(tmp_path, "one", "lora"), fine_tuned(tmp_path, "other", "lora", alpha=16.0)
    assert weights_hash(one) == weights_hash(other)
    assert encoder_digest(one) != encoder_digest(other)
    assert encoder_digest(fine_tuned(tmp_path, "frozen", "frozen")) == encoder_digest(load_encoder(tmp_path / "base"))


def test_settings_that_adapters_got_later_do_not_count(tmp_path):
    write_encoder(tmp_path / "base")
    said_all = to_table(registry.get("adapters", "lora").Config())
    least = fine_tuned(tmp_path, "least", "lora")
    assert encoder_digest(least) == encoder_digest(fine_tuned(tmp_path, "all", "lora", **said_all))


CODE = """\
from dataclasses import dataclass
from torch import nn


class Mine(nn.Module):
    @dataclass(frozen=True)
    class Config:
        dim: int = 8
        gain: float = 1.0

    sample_rate, stride, num_layers = 16000, 320, 1

    def __init__(self, config):
        super().__init__()
        self.dim, self.gain = config.dim, config.gain

    def num_frames(self, samples):
        return samples // 320

    def forward(self, waveform, lengths, *, num_layers=None):
        from audiossl.contracts import EncoderOutput

        frames = self.gain * waveform[:, : waveform.shape[1] // 320 * 320].unflatten(1, (-1, 320))[..., : self.dim]
        return EncoderOutput([frames, frames.tanh()], lengths // 320)
"""


def test_code_and_settings_of_a_class_outside_the_package_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def digest(code, recipe):
        (tmp_path / "digested.py").write_text(code)
        (tmp_path / "mine.toml").write_text(f'[encoder]\nname = "digested:Mine"\n{recipe}')
        return open_features("random:mine.toml", seed=0, device="cpu", train=None).digest

    first = digest(CODE, "")
    assert digest(CODE, "gain = 1.0") == first
    assert len({first, digest(CODE, "gain = 2.0"), digest(CODE.replace("tanh", "sin"), "")}) == 3


def test_recipes_that_differ_in_heads_have_digests_of_their_own(tmp_path):
    def digest(heads):
        table = {"name": "wav2vec2", **to_table(registry.get("encoders", "wav2vec2").Config.tiny()), "num_heads": heads}
        write_toml(tmp_path / "heads.toml", {"encoder": table})
        return open_features(f"random:{tmp_path / 'heads.toml'}", seed=0, device="cpu", train=None).digest

    assert digest(4) == digest(4) != digest(1)
