"""Any upstream of s3prl as an encoder of ours: `s3prl:NAME`, or `s3prl:NAME:CHECKPOINT` for those that take one.

s3prl 0.4 is written for a torchaudio that had functions which are gone by now. `import_hub` stands in for exactly those, and for all of torchaudio where
it is absent or does not load beside this torch; what then asks for a stand-in's work is told so.
"""

from __future__ import annotations

import bisect
import contextlib
import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from audiossl.contracts import Count, EncoderOutput
from audiossl.interop.safe_pickle import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

_STAND_INS = (
    "torchaudio",
    "torchaudio.compliance",
    "torchaudio.compliance.kaldi",
    "torchaudio.functional",
    "torchaudio.sox_effects",
    "torchaudio.transforms",
)
_SHORTEST = 800
"""Samples; s3prl too pads what is shorter than 0.05 s."""
_SECOND = 16000
"""Samples of noise whose frames tell the shape of an upstream, and from which on its hop is measured where it does not say that."""
_FAR = 20 * _SECOND
"""How many samples further a measured hop must still predict the number of frames."""


class Upstream(nn.Module):
    """An upstream behind `contracts.Encoder`. Utterances are given to it as a list, so what padding does is up to it.

    It returns tensors of (batch, frame, dim), as a list or as `hidden_states` in a dict, and may say its hop in samples in `get_downsample_rates`. Frames are counted as s3prl counts them for its downstream models: one for each begun hop, the last one repeated where the upstream has fewer.
    ValueError where its layers differ in width or hop.
    """

    sample_rate = 16000

    def __init__(self, upstream: nn.Module, name: str) -> None:
        super().__init__()
        self.upstream = upstream.eval()
        # Some have no weights, and caches know encoders by the hash of these.
        self.register_buffer("name", torch.tensor(list(name.encode()), dtype=torch.uint8))
        layers = self._of_noise(_SECOND)
        told = getattr(upstream, "get_downsample_rates", None)
        rates = self._measured_hop() if told is None else told("hidden_states")
        widths = {layer.shape[-1] for layer in layers}
        strides = {rates} if isinstance(rates, int) else set(rates)
        if len(widths) != 1 or len(strides) != 1:
            raise ValueError(f"layers of widths {sorted(widths)} and hops {sorted(strides)}; one of each is needed")
        self.dim, self.stride = widths.pop(), strides.pop()
        self.num_layers = len(layers) - 1

    def num_frames(self, samples: Count) -> Count:
        """Valid frames of `samples` samples: those begun."""
        return (samples - 1) // self.stride + 1

    def forward(self, waveform: Tensor, lengths: Tensor, *, num_layers: int | None = None) -> EncoderOutput:
        """waveform: (batch, sample); lengths: (batch,); num_layers: give no more blocks than these, though all are run."""
        rows = [row[: int(n)] for row, n in zip(waveform, lengths, strict=True)]
        shortest = [nn.functional.pad(row, (0, max(0, _SHORTEST - len(row)))) for row in rows]
        frames = self.num_frames(lengths)
        wanted = self._run(shortest)[: None if num_layers is None else num_layers + 1]
        layers = [_of_length(layer, int(frames.max())) for layer in wanted]
        return EncoderOutput(layers, frames)

    def _run(self, waveforms: list[Tensor]) -> list[Tensor]:
        output = self.upstream(waveforms)
        output = output.get("hidden_states") if isinstance(output, Mapping) else output
        layers = [output] if isinstance(output, Tensor) else list(output or ())
        if not layers or not all(isinstance(layer, Tensor) and layer.ndim == 3 for layer in layers):
            raise ValueError('gives no layers; return {"hidden_states": [tensor of (batch, frame, dim), ...]}')
        return layers

    @torch.no_grad()
    def _of_noise(self, samples: int) -> list[Tensor]:
        return self._run([torch.randn(samples, generator=torch.Generator().manual_seed(0))])

    def _frames(self, samples: int) -> int:
        return self._of_noise(samples)[-1].shape[1]

    def _measured_hop(self) -> int:
        """Samples from frame to frame, between two lengths at which frames begin; ValueError where that does not hold for much longer ones."""
        first = self._next_begun(_SECOND)
        second = self._next_begun(first)
        period, frames = second - first, self._frames(first)
        more = self._frames(second) - frames  # several where frames are repeated
        times = _FAR // period
        far, expected = first + times * period, frames + times * more
        if period % more or (self._frames(far - 1), self._frames(far)) != (expected - more, expected):
            raise ValueError("its frames are not a whole number of samples apart; write get_downsample_rates")
        return period // more

    def _next_begun(self, samples: int) -> int:
        """The least length beyond `samples` that has more frames."""
        frames, step = self._frames(samples), 512
        while self._frames(samples + step) <= frames:
            step *= 2
            if step > _FAR:
                raise ValueError("gives no more frames of longer recordings; write get_downsample_rates")
        return samples + bisect.bisect_right(range(samples, samples + step), frames, key=self._frames)


class HubUpstream(Upstream):
    """The same by its configuration, as encoders that hold another one describe that."""

    @dataclass(frozen=True)
    class Config:
        """spec: see `load_upstream`."""

        spec: str

    def __init__(self, config: Config) -> None:
        super().__init__(load_upstream(config.spec).upstream, config.spec.partition(":")[0])


def load_upstream(spec: str) -> Upstream:
    """Load `NAME` or `NAME:CHECKPOINT`, in eval mode; ValueError where s3prl is absent, has no such upstream or cannot load it."""
    name, _, checkpoint = spec.partition(":")
    hub = import_hub()
    known = [known for known in hub.options() if inspect.isfunction(getattr(hub, known))]
    if name not in known:
        from audiossl.registry import suggestion

        raise ValueError(f"s3prl:{name}: s3prl has no such upstream; {suggestion(name, known)}")
    if not checkpoint and name.endswith(("_local", "_custom", "_url")):
        raise ValueError(f"s3prl:{name}: has no checkpoint of its own; give s3prl:{name}:CHECKPOINT")
    if name.endswith("_local") and not Path(checkpoint).exists():
        raise ValueError(f"s3prl:{spec}: no such file; give the path of a checkpoint")
    make: Callable[..., nn.Module] = getattr(hub, name)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some say there what they load
            return Upstream(make(ckpt=checkpoint) if checkpoint else make(), name).eval()
    except Exception as error:  # upstreams are many people's code
        raise ValueError(f"s3prl:{spec}: cannot be used: {first_line(error)}") from error


def import_hub() -> Any:
    """Import `s3prl.hub`, whichever torchaudio is there; ValueError where s3prl is not installed."""
    _mend_torchaudio()
    try:
        return importlib.import_module("s3prl.hub")
    except ImportError as error:
        raise ValueError(
            f"s3prl cannot be imported: {error}; pip install --no-deps s3prl, then what it misses"
        ) from error


def _mend_torchaudio() -> None:
    try:
        torchaudio = importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):  # one built for another torch raises OSError
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        for name in _STAND_INS:
            _stand_in(name)
        torchaudio = sys.modules["torchaudio"]
    if "set_audio_backend" not in vars(torchaudio):  # it chose a reader of files, which upstreams never use
        vars(torchaudio)["set_audio_backend"] = lambda *_, **__: None
    if not hasattr(torchaudio, "sox_effects"):
        _stand_in("torchaudio.sox_effects")


def _stand_in(name: str) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module)["__getattr__"] = lambda function: _absent(name, function)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _absent(module: str, function: str) -> Callable[..., NoReturn]:
    if function.startswith("__"):  # asked for by Python, which is told the truth
        raise AttributeError(f"module {module!r} has no attribute {function!r}")

    def absent(*_: Any, **__: Any) -> NoReturn:
        raise ValueError(f"needs {module}.{function}; install a torchaudio that loads beside this torch")

    return absent


def _of_length(frames: Tensor, count: int) -> Tensor:
    """(batch, frame, dim) cut to `count` frames, or with the last one repeated."""
    missing = count - frames.shape[1]
    return frames[:, :count] if missing <= 0 else torch.cat([frames, frames[:, -1:].expand(-1, missing, -1)], dim=1)
