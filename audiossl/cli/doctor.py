"""Say what is installed, what works together, and what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
import sys

from audiossl.cli._printed import answer

_OURS = "audiossl"
_OPTIONAL = {
    "espeakng_loader": "the `mini` corpus, whose preparation fetches it; or pip install '.[synth]' in a checkout, 'audiossl[synth]' elsewhere",
    "torchaudio": "only for interoperability; it must match torch's own build",
    "s3prl": "only for interoperability",
}
_WHEELS = {
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
    "espeakng_loader": "espeakng-loader",
}


def main(*, json: bool = False) -> int:
    """Say what is installed, what works together, and what is missing.

    Example: audiossl doctor

    Args:
        json: print the findings as JSON.
    """
    rows = [_look("python", platform.python_version(), "")]
    rows += [_import(name, needed=True) for name in _needed()]
    rows += [_import(name, needed=False) for name in _OPTIONAL]
    rows.append(_torch_devices())
    failed = any(row["state"] == "broken" for row in rows)
    lines = (f"{row['state']:<8} {row['name']:<16} {row['version']:<14} {row['note']}".rstrip() for row in rows)
    answer({"ok": not failed, "findings": rows}, "\n".join(lines), json=json)
    return 1 if failed else 0


def _needed() -> list[str]:
    """Modules of the packages that ours requires, without extras; ours itself where it is not installed."""
    try:
        lines = importlib.metadata.requires(_OURS) or []
    except importlib.metadata.PackageNotFoundError:
        return [_OURS]
    modules = {wheel: module for module, wheel in _WHEELS.items()}
    wheels = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]
    return [modules.get(wheel, wheel) for wheel in wheels]


def _import(name: str, *, needed: bool) -> dict[str, str]:
    try:
        version = importlib.metadata.version(_WHEELS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        wheel = "." if name == _OURS else _WHEELS.get(name, name)
        cure = f"pip install {wheel}" if needed else _OPTIONAL[name]
        return _look(name, "-", cure, state="broken" if needed else "absent")
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        # A torchaudio built for another torch raises OSError and takes transformers down with it.
        cure = f"pip uninstall {name}" if not needed else f"pip install --force-reinstall {_WHEELS.get(name, name)}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return _look(name, version, f"{reason}; {cure}", state="broken")
    return _look(name, version, "")


def _torch_devices() -> dict[str, str]:
    if "torch" not in sys.modules:
        return _look("devices", "-", "torch cannot be imported", state="broken")
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return _look("devices", torch.__version__, ", ".join(cuda) or f"cpu, {torch.get_num_threads()} threads")


def _look(name: str, version: str, note: str, state: str = "ok") -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "note": note}
