# SPDX-License-Identifier: Apache-2.0
"""`hubsep env`: versions, and which device a separation runs on and why. Paste it into a report."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from .. import __version__


PACKAGES = ("torch", "transformers", "diffusers", "huggingface_hub", "accelerate", "safetensors", "numpy", "soundfile")


def environment(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, the device, and why it is the CPU if it is."""
    facts = {**_versions(), **_device()}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def _versions() -> dict[str, Any]:
    facts = {"hubsep": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _device() -> dict[str, Any]:
    import soundfile
    import torch
    from accelerate import PartialState

    device = PartialState().device
    facts: dict[str, Any] = {"libsndfile": soundfile.__libsndfile_version__, "device": str(device)}
    if device.type == "cpu":
        facts["why cpu"] = _why_cpu(torch)
    else:
        facts["device name"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    facts["threads"] = torch.get_num_threads()
    facts["bfloat16"] = _bfloat16(torch, device)
    return facts


def _why_cpu(torch: Any) -> str:
    """The first thing that stands between this process and an accelerator."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}:
        return "ACCELERATE_USE_CPU is set"
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of PyTorch knows no CUDA or ROCm" + ("" if _has_mps(torch) else " and there is no MPS")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in {"", "-1"}:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU"
    return "PyTorch finds no GPU or no driver for it"


def _has_mps(torch: Any) -> bool:
    return bool(torch.backends.mps.is_available())


def _bfloat16(torch: Any, device: Any) -> str:
    if device.type == "cuda":
        return "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated: use float32"
    if device.type == "cpu":
        return f"yes ({torch.backends.cpu.get_cpu_capability()})"
    return "untested on this device"


__all__ = ["environment"]
