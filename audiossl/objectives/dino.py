"""DINO for speakers: short and long crops match a momentum teacher's distribution over prototypes for other, long crops."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.objectives._dino import DINOConfig, DINOObjective


class DINO(DINOObjective):
    """Self-distillation without labels (Caron et al., 2021), with two global crops. What is evaluated is the teacher."""

    @dataclass(frozen=True)
    class Config(DINOConfig):
        """The published defaults on VoxCeleb2 (sslsv): 6.04 % EER with Fast ResNet-34, not rerun here."""
