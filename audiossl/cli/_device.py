"""What `--device` says."""

from __future__ import annotations


def chosen_device(name: str) -> str:
    """Return the device that a name means, `auto` a GPU where there is one; ValueError where it cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: cannot be used: {str(error).splitlines()[0]}; use auto or cpu") from error
    return name
