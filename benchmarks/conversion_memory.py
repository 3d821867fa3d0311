# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a conversion against the size of its source: random weights in the published names and shapes.

Every figure is from a process of its own. What Python, PyTorch and transformers take is subtracted: it is there
before the conversion begins. Pages of the source that are mapped into memory count. `published_sources.py` makes the
sources.

    python benchmarks/conversion_memory.py ../shared --systems audiomae sepformer meta_tasnet conv_tasnet
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

from published_sources import SOURCES, write_source

from hubsep.registry import SYSTEMS


def convert_source(kind: str, source: str, output: str, settings: dict[str, Any], results: Any) -> None:
    """Converts it, and says by how many bytes the peak of this process rose."""
    import transformers  # noqa: F401 - what a conversion imports is there before it begins

    from hubsep.conversion import convert

    system: Any = SOURCES[kind].system
    importlib.import_module(str(SYSTEMS[system].converter))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = peak()
    convert(system, source, output, licence="unknown", **settings)
    results.put(peak() - before)


def peak() -> int:
    """Bytes of memory this process has had at most; Linux says so."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1_024


def run(context: Any, function: Any, *arguments: Any) -> None:
    """Runs a function in a process of its own.

    Raises:
        SystemExit: if it fails.
    """
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a process ended with {process.exitcode}")


def main() -> None:
    """Prints a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--systems", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    for kind in options.systems:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            source = place / SOURCES[kind].file
            run(context, write_source, str(options.shared), kind, str(source))
            run(
                context,
                convert_source,
                kind,
                str(source),
                str(place / "model"),
                SOURCES[kind].settings(place),
                results,
            )
            size, rise = source.stat().st_size, results.get()
            print(
                f"{kind}: source {size / 1e6:.0f} MB, peak {rise / 1e6:.0f} MB, {rise / size:.2f} of the source",
                flush=True,
            )


if __name__ == "__main__":
    main()
