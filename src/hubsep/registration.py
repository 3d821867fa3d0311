# SPDX-License-Identifier: Apache-2.0
"""How transformers comes to know the systems, the tables it keeps of them, and what it says of a model inside hubsep.

Decisions:

- transformers is told when it has imported the module that holds the table in question. Classes are imported when they
  are looked up, not in the middle of transformers' own imports.
- Who takes a class out of a table gets that class, and no stand-in: it can be subclassed, compared and asked for.
- transformers looks on the Hub for every name that is no folder, and has no place to be told of others. Its function
  that looks for files is given the folder of a name that only hubsep knows, and two more do not ask the Hub for such a
  name: without a network they would wait half a minute for an answer. Nothing else of it is changed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from threading import get_ident
from types import ModuleType
from typing import Any

from .hub.published import find_published
from .registry import GENERATION_CONFIG, GENERATION_MODEL, GENERATION_READER, PIPELINE, SYSTEMS, TASK, System, locate
from .shipped import DEFAULT_MODEL, SHIPPED


MARK = "_hubsep_opens_names"
HUB_OPTIONS = ("token", "revision", "cache_dir", "local_files_only")
LONGEST_NAME = 255  # letters, of a path that is asked for


def open_names(hub: ModuleType) -> None:
    """Makes transformers find the models inside hubsep, and published checkpoints, by their names.

    Args:
        hub: `transformers.utils.hub`, which looks for all files.
    """
    for name, around in ASKING.items():
        function = getattr(hub, name, None)  # not each release has all of them
        if function is None or hasattr(function, MARK):
            continue
        wrapped = functools.wraps(function)(functools.partial(around, function))
        setattr(wrapped, MARK, True)
        for module in [each for path, each in sys.modules.items() if path.partition(".")[0] == "transformers"]:
            if vars(module).get(name) is function:
                setattr(module, name, wrapped)


def _look_up(function: Callable[..., Any], path_or_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
    """Files: of a name that only hubsep knows those in its folder."""
    options = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
    return function(folder_of(path_or_repo_id, **options) or path_or_repo_id, *args, **kwargs)


def _resolve(function: Callable[..., Any], path_or_repo_id: Any, revision: Any = None, **kwargs: Any) -> Any:
    """The commit of a revision; that of a name that only hubsep knows is found when its files are."""
    return revision if is_known(path_or_repo_id) else function(path_or_repo_id, revision, **kwargs)


def _list_templates(function: Callable[..., list[str]], repo_id: Any, **kwargs: Any) -> list[str]:
    """Templates of a chat, of which no separator has any."""
    return [] if is_known(repo_id) else function(repo_id, **kwargs)


# what transformers asks the Hub for, by a name that comes first
ASKING: dict[str, Callable[..., Any]] = {
    "cached_files": _look_up, "resolve_revision": _resolve, "list_repo_templates": _list_templates,
}  # fmt: skip


def is_known(name: Any) -> bool:
    """Whether only hubsep knows a name: the Hub does not have it, or not as transformers wants it."""
    if not isinstance(name, str) or not name or len(name) > LONGEST_NAME or Path(name).exists():
        return False
    row = find_published(name)
    return name in SHIPPED or (row is not None and not row.opens)


def folder_of(name: Any, **options: Any) -> str | None:
    """The folder of a name that hubsep knows and the Hub does not have as transformers wants it; None of any other.

    Args:
        name: of a model.
        **options: of the Hub, as `resolve_folder` takes them.

    Raises:
        CheckpointError: if it is such a name, and cannot be fetched or converted.
    """
    if not is_known(name):
        return None
    if name in SHIPPED:
        return str(SHIPPED[name])
    from .hub.resolve import resolve_folder

    return str(resolve_folder(name, **options))


@dataclass(frozen=True)
class Later:
    """A class that was not imported yet.

    Attributes:
        path: dotted, of the class.
        locate: imports it.
    """

    path: str
    locate: Callable[[str], Any]


class LazyTable(dict[Any, Any]):
    """A dict that hands out the class itself where a `Later` was put in, as a value or as a key.

    Keys are imported when the table is first looked into: a configuration that transformers' own imports come back to
    is only half there while its table is made.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._waiting: dict[Later, Later] = {}
        self._begun: set[tuple[Later, int]] = set()

    def put(self, key: Any, later: Later) -> None:
        """Adds a class, unless its key is there."""
        if isinstance(key, Later):
            self._waiting.setdefault(key, later)
        else:
            super().setdefault(key, later)

    def __getitem__(self, key: Any) -> Any:
        self._fill()
        value = super().__getitem__(key)
        if isinstance(value, Later):
            value = self[key] = value.locate(value.path)
        return value

    def __contains__(self, key: object) -> bool:
        self._fill()
        return super().__contains__(key)

    def __len__(self) -> int:
        self._fill()
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:  # with one of its own, dict(table) and {**table} ask `__getitem__` too
        self._fill()
        return super().__iter__()

    def get(self, key: Any, default: Any = None) -> Any:
        """As of a dict."""
        return self[key] if key in self else default  # noqa: SIM401 - that is this method

    def keys(self) -> Any:
        """As of a dict."""
        self._fill()
        return super().keys()

    def values(self) -> Any:
        """As of a dict."""
        return self._located().values()

    def items(self) -> Any:
        """As of a dict."""
        return self._located().items()

    def copy(self) -> dict[Any, Any]:
        """As of a dict."""
        return self._located()

    def _fill(self) -> None:
        thread = get_ident()
        for key, later in list(self._waiting.items()):
            if (key, thread) not in self._begun:  # else that import looks into the table itself
                self._begun.add((key, thread))
                super().setdefault(key.locate(key.path), later)
                self._waiting.pop(key, None)

    def _located(self) -> dict[Any, Any]:
        return {key: self[key] for key in self}


def add(mapping: Any, entries: Mapping[Any, Later]) -> None:
    """Adds classes to one of transformers' mappings.

    Args:
        mapping: which keeps what is not its own in `_extra_content`.
        entries: by model type, or by the class of a configuration, which may be a `Later` too.
    """
    if not isinstance(mapping._extra_content, LazyTable):
        mapping._extra_content = LazyTable(mapping._extra_content)
    for key, later in entries.items():
        mapping._extra_content.put(key, later)


def _later(path: str) -> Later:
    return Later(path, locate)


def _by_config(field: str, systems: Iterable[System]) -> dict[Any, Later]:
    """The classes that a field of the rows names, by their configurations."""
    paths = {system.config: getattr(system, field) for system in systems if system.config is not None}
    return {_later(config): _later(path) for config, path in paths.items() if path is not None}


def _register_configs(auto: ModuleType) -> None:
    configs = {name: _later(system.config) for name, system in SYSTEMS.items() if system.config is not None}
    add(auto.CONFIG_MAPPING, {**configs, "audioldm2": _later(GENERATION_CONFIG)})


def _register_processors(auto: ModuleType) -> None:
    add(auto.PROCESSOR_MAPPING, _by_config("processor", SYSTEMS.values()))


def _register_feature_extractors(auto: ModuleType) -> None:
    add(auto.FEATURE_EXTRACTOR_MAPPING, _by_config("feature_extractor", SYSTEMS.values()))


def _register_models(auto: ModuleType) -> None:
    add(auto.MODEL_MAPPING, _by_config("model", SYSTEMS.values()))
    add(auto.MODEL_FOR_PRETRAINING_MAPPING, _by_config("pretraining", SYSTEMS.values()))
    add(auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING, {_later(GENERATION_CONFIG): _later(GENERATION_MODEL)})


def _register_reader(auto: ModuleType) -> None:
    add(auto.TOKENIZER_MAPPING, {_later(GENERATION_CONFIG): _later(GENERATION_READER)})


def _register_pipelines(pipelines: ModuleType) -> None:
    from .auto import AutoModelForAudioSeparation

    if TASK in pipelines.PIPELINE_REGISTRY.supported_tasks:
        return
    # as `register_pipeline` would write it, which also marks the class: then `save_pretrained` copies source files
    pipelines.PIPELINE_REGISTRY.supported_tasks[TASK] = LazyTable(
        impl=_later(PIPELINE),
        pt=(AutoModelForAudioSeparation,),
        default={"model": (str(SHIPPED[DEFAULT_MODEL]), "main")},
        type="audio",
    )


STEPS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.feature_extraction_auto": _register_feature_extractors,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.processing_auto": _register_processors,
    "transformers.models.auto.tokenization_auto": _register_reader,
    "transformers.pipelines": _register_pipelines,
    "transformers.utils.hub": open_names,
}


class _AfterImport(MetaPathFinder):
    """Runs the step that belongs to a module of transformers right after that was imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        step = STEPS.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if step is not None else None
        if step is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            step(module)

        spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Makes transformers' auto classes and `pipeline()` know the systems, now or when they are imported."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for name, step in STEPS.items():
        if name in sys.modules:
            step(sys.modules[name])


__all__ = ["STEPS", "Later", "LazyTable", "add", "folder_of", "open_names", "register"]
