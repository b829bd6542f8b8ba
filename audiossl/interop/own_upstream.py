"""A class of the user's own as an encoder: `FILE.py:CLASS`, or `FILE.py:CLASS@CHECKPOINT`. The file is run, so that only the command line may name it."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from audiossl.contracts import Encoder, EncoderOutput
from audiossl.interop.digest import contents_hash
from audiossl.interop.encoder import OWN, stops_early
from audiossl.interop.s3prl_upstream import Upstream
from audiossl.interop.safe_pickle import first_line
from audiossl.registry import suggestion

if TYPE_CHECKING:
    from types import ModuleType

    from audiossl.contracts import Count


class OwnEncoder(nn.Module):
    """A `contracts.Encoder` of the user's own, which need not be able to stop early."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside
        self.dim, self.stride, self.sample_rate = inside.dim, inside.stride, inside.sample_rate
        self.num_layers = inside.num_layers

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples."""
        frames: Count = self.inside.num_frames(samples)
        return frames

    def forward(self, waveform: Tensor, lengths: Tensor, *, num_layers: int | None = None) -> EncoderOutput:
        """waveform: (batch, sample); lengths: (batch,); num_layers: give no more blocks than these, though all are run."""
        output: EncoderOutput = self.inside(waveform, lengths)
        return EncoderOutput(output.layers[: None if num_layers is None else num_layers + 1], output.lengths)


def load_own(source: str, *, seed: int = 0) -> nn.Module:
    """Run the file of a source of the form `OWN` and return an encoder of what its class or function makes, in eval mode.

    That is given no arguments but, where there is a `Config`, one of these and, where it has a parameter `ckpt`, the checkpoint or None. It is a `contracts.Encoder`
    or takes a list of waveforms, as upstreams of s3prl do (see `Upstream`). seed: of weights that it draws. ValueError where it cannot be used.
    """
    form = OWN.fullmatch(source)
    assert form is not None
    path, name, checkpoint = Path(form["path"]), form["name"], form["checkpoint"]
    if not path.is_file():
        raise ValueError(f"{source}: there is no file {path}; give the path of the code")
    make = _of_file(_run(path), name, source)
    torch.manual_seed(seed)
    try:
        encoder = _wrapped(_made(make, checkpoint), name)
    except Exception as error:  # it is anybody's code
        raise ValueError(f"{source}: cannot be used: {first_line(error)}") from error
    if checkpoint is not None:
        found = Path(checkpoint)
        of_name = hashlib.sha256(checkpoint.encode()).hexdigest()  # the class may know it by that alone
        encoder.checkpoint_hash = contents_hash(found) if found.exists() else of_name
    whole: nn.Module = encoder.eval()
    return whole


def _wrapped(made: nn.Module, name: str) -> Any:
    if not isinstance(made, Encoder):
        return Upstream(made, name)
    return made if stops_early(made) or hasattr(made, "embed") else OwnEncoder(made)


def _made(make: Any, checkpoint: str | None) -> nn.Module:
    takes = "ckpt" in inspect.signature(make).parameters
    if checkpoint is not None and not takes:
        raise ValueError("has no parameter ckpt for a checkpoint; add one, or leave @ out")
    config = [make.Config()] if hasattr(make, "Config") else []
    made = make(*config, ckpt=checkpoint) if takes else make(*config)
    if not isinstance(made, nn.Module):
        raise TypeError(f"is a {type(made).__name__}, not a torch module")
    return made


def _of_file(module: ModuleType, name: str, source: str) -> Any:
    found = getattr(module, name, None)
    if not callable(found):
        here = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ValueError(f"{source}: the file has no class {name}; {suggestion(name, here)}")
    return found


def _run(path: Path) -> ModuleType:
    """Import a file anew, as Python runs one: what lies beside it, and in the current folder, can be imported by it."""
    for folder in (str(path.resolve().parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)
    name = str(path.resolve())  # no import means it by mistake, and `inspect` finds its code
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path}: cannot be run: {type(error).__name__}: {first_line(error)}") from error
    return module
