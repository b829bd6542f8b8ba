"""What a job took of an NVIDIA GPU: memory as torch counts it, energy as the driver does."""

from __future__ import annotations

import ctypes


def reset_peak(device: str) -> None:
    """Count the peak of this process from now on."""
    import torch

    torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int:
    """Return the most that tensors of this process held at once; what CUDA and its libraries take is not in it."""
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def joules(device: str) -> float | None:
    """Energy of the whole GPU since its driver was loaded (NVML: Volta and later), whoever used it; None where the driver does not tell."""
    import torch

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    failed = (
        nvml.nvmlInit_v2()
        or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle))
        or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    )
    return None if failed else millijoules.value / 1e3
