"""Devices and number formats: what this machine multiplies fastest in, and how much memory it took."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
from collections.abc import Iterator

import torch

from helpers.errors import unknown

PRECISIONS = ("auto", "fp32", "bf16")
# What errors say that are no OutOfMemoryError: the CPU's allocator, a CUDA call, cuBLAS.
_MEMORY_SIGNS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def best_device() -> torch.device:
    """Return the first CUDA device, else the CPU."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def describe(device: torch.device) -> str:
    """Return a device's name for a record, such as ``"cpu x86_64, 2 threads"``."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``"bf16"`` or ``"fp32"``; ``"auto"`` takes bf16 where the processor multiplies in it.

    Raises:
        UnknownName: not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


@contextlib.contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Run the block in the given precision; weights stay in 32 bits."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def saved_on_host(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """Keep what a forward pass saves for the backward pass in main memory, where wanted."""
    if not wanted:
        return contextlib.nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())


def forward_tokens(device: torch.device) -> int:
    """Return how many tokens a forward pass without gradients takes at its fastest.

    A processor is fastest while what a layer makes stays in its cache: on two cores, 1,024 to 4,096
    tokens differed by some percent. A GPU wants to be filled.
    """
    return 65536 if device.type == "cuda" else 2048


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on either kind of device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)
