# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a conversion against the size of its source: random weights in the published names and shapes.

Every figure is from a process of its own. What Python, PyTorch and transformers take is subtracted: it is there before
the conversion begins. Pages of the source that are mapped into memory count. The shapes are those of the
manifests of the published files in SHARED.

    python benchmarks/conversion_memory.py ../shared --systems audiomae sepformer meta_tasnet conv_tasnet
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubsep.models.sepformer.modeling_sepformer import position_table
from hubsep.registry import SYSTEMS


GOLDEN = "golden"
SETTINGS: dict[str, dict[str, Any]] = {
    "sepformer": {"sampling_rate": 8_000}, "conv_tasnet": {"num_blocks": 8, "sampling_rate": 16_000},
    "meta_tasnet": {}, "audiomae": {},
}  # fmt: skip


def shapes(shared: Path, system: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what is published."""
    golden = shared / GOLDEN
    if system == "sepformer":
        parts = {
            part: golden / f"sepformer/manifest_wsj02mix_{part}.json" for part in ("encoder", "masknet", "decoder")
        }
        rows = {f"{part}.{name}": row for part, path in parts.items() for name, row in read(path).items()}
    elif system == "audiomae":
        manifest = read(golden / "audioldm2/manifests/audiomae_vitb_manifest.json")
        rows = {**manifest["encoder"], **manifest["decoder_global"]}
    elif system == "meta_tasnet":
        rows = read(golden / "meta_tasnet/manifest_published.json")
    else:
        rows = read(golden / "conv_tasnet-asteroid/manifest_asteroid_libri2mix_16k.json")
    return {name: tuple(row[0]) for name, row in rows.items()}


def read(path: Path) -> dict[str, Any]:
    """A manifest."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def random_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights of that shape; tables that a conversion compares are the published ones."""
    if name.endswith("pos_enc.pe"):
        return position_table(shape[1], shape[2])[None]
    if name.endswith("spectrogram.window"):
        return torch.hann_window(shape[0])
    return torch.rand(shape) * 0.1


def write_source(shared: str, system: str, target: str) -> None:
    """Writes a checkpoint of random weights."""
    torch.manual_seed(0)
    torch.save({name: random_tensor(name, shape) for name, shape in shapes(Path(shared), system).items()}, target)


def convert_source(system: str, source: str, output: str, results: Any) -> None:
    """Converts it, and says by how many bytes the peak of this process rose."""
    import transformers  # noqa: F401 - what a conversion imports is there before it begins

    from hubsep.conversion import convert

    importlib.import_module(str(SYSTEMS[system].converter))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = peak()
    convert(system, source, output, licence="unknown", **SETTINGS[system])  # type: ignore[call-overload]
    results.put(peak() - before)


def peak() -> int:
    """Bytes of memory this process has had at most; Linux says so."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1_024


def main() -> None:
    """Prints a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--systems", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    for system in options.systems:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source.pth"
            for function, arguments in (
                (write_source, (str(options.shared), system, str(source))),
                (convert_source, (system, str(source), str(Path(folder) / "model"), results)),
            ):
                process = context.Process(target=function, args=arguments)
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{system}: a process ended with {process.exitcode}")
            size, rise = source.stat().st_size, results.get()
            print(f"{system}: source {size / 1e6:.0f} MB, peak {rise / 1e6:.0f} MB, {rise / size:.2f} of the source")


if __name__ == "__main__":
    main()
