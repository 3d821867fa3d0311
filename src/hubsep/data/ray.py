# SPDX-License-Identifier: Apache-2.0
"""Separation of corpora on object storage with Ray Data; needs `pip install 'hubsep[ray]'`.

Decisions: a worker (`corpus.py`) loads the model once, and only when a recording has to be separated. Ray does a block
of rows again when it loses the worker that had it; the recordings of that block which are finished are then skipped,
as they are when all of it is run again. There is one row per source, of plain columns, so that failures and results
fit in one table. What cuts a dataset into tasks needs a CPU beside those of the workers; without one a cluster waits,
for ever unless it grows, so there is a warning.
"""

from __future__ import annotations

import warnings
from pathlib import PurePosixPath
from typing import Any

from ..batch.corpus import TEMPLATE, SeparateRecordings, Task
from ..batch.storage import find_filesystem
from ..errors import DataError
from ..hub.file_names import SUFFIXES
from ..pipelines.separation.options import check_names
from ..shipped import DEFAULT_MODEL


def find_recordings(location: str, *, filesystem: Any = None) -> Any:
    """A dataset with the `path` of every recording below a folder, at any depth, in the order of their names.

    Args:
        location: URI such as `s3://bucket/folder`, or a path.
        filesystem: of pyarrow or fsspec, if it needs more than the URI says.

    Raises:
        DataError: if there is none.
    """
    import ray.data
    from pyarrow.fs import FileSelector

    system, root = find_filesystem(location, filesystem)
    files = [info.path for info in system.get_file_info(FileSelector(root, recursive=True)) if info.is_file]
    scheme = location.partition("://")[0] + "://" if "://" in location else ""
    paths = sorted(scheme + path for path in files if PurePosixPath(path).suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{location} holds no recording ({' '.join(sorted(SUFFIXES))})")
    return ray.data.from_items([{"path": path} for path in paths])


def separate_dataset(
    dataset: Any,
    *,
    model: str = DEFAULT_MODEL,
    output: str | None = None,
    root: str | None = None,
    template: str = TEMPLATE,
    format: str = "wav",
    subtype: str | None = None,
    filesystem: Any = None,
    path_column: str = "path",
    bytes_column: str = "bytes",
    workers: int | tuple[int, int] = 1,
    overwrite: bool = False,
    rows_per_task: int = 8,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    **options: Any,
) -> Any:
    """Separates the recordings of a Ray dataset; lazily, as everything in Ray Data.

    Args:
        dataset: rows with a path or URI, with the content of a file, or with both.
        model: folder, name on the Hub, or name of a shipped model; every worker has to be able to reach it.
        output: folder or URI for the sources; without it, the waveforms are in the rows.
        root: what to leave out at the start of paths to get names below `output`.
        template: names below `output`, of {file} (the path), {name} (without its ending), {label} and {ext}.
        format: ending of the files of sources.
        subtype: their sample format; by default 32-bit floating point where the format has it.
        filesystem: of pyarrow or fsspec, for recordings and sources, if it needs more than the URIs say.
        path_column: name of the column with paths.
        bytes_column: name of the column with contents; rows without it are read from their paths.
        workers: how many, or the least and the most; the cluster needs a CPU more than they take.
        overwrite: whether to replace files below `output` that are not of the same recording and settings.
        rows_per_task: recordings a worker takes at once, and how many Ray looks at again when it loses one.
        num_cpus: of each worker; its model uses as many threads.
        num_gpus: of each worker; 0.5 puts two workers on a GPU.
        **options: of a call of the pipeline, such as `queries=["rain"]` or `residual=True`.

    Returns:
        A dataset with one row per source: the columns of the recording but its content, "label", "score", "ok",
        "skipped" (it was finished before), "error", and "output", or "audio" (channels, samples) and "sampling_rate".
        A recording that cannot be read is one row with "ok" false and the reason in "error".

    Raises:
        DataError: if the template or the location of the results is none.
        TypeError: if an option is unknown.
    """
    from ray.data import ActorPoolStrategy

    check_names(options)
    task = Task(
        model, options, output, root, template, format, subtype, filesystem, path_column, bytes_column, overwrite
    )
    task.check()
    least, most = (workers, workers) if isinstance(workers, int) else workers
    _warn_without_room(least, least * ((0 if num_gpus else 1) if num_cpus is None else num_cpus))
    return dataset.repartition(target_num_rows_per_block=rows_per_task).flat_map(
        SeparateRecordings,
        fn_constructor_args=[task],
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def _warn_without_room(workers: int, taken: float) -> None:
    """Warns where the workers take every CPU of the cluster."""
    import ray

    there = ray.cluster_resources().get("CPU", 0)
    if taken + 1 > there:
        warnings.warn(
            f"the cluster has {there:g} CPUs, which {workers} workers take; cutting the dataset into tasks needs one "
            "more, so nothing begins until the cluster grows: ask for fewer workers, or for num_cpus=0.5 each",
            stacklevel=3,
        )


__all__ = ["SeparateRecordings", "Task", "find_recordings", "separate_dataset"]
