# SPDX-License-Identifier: Apache-2.0
"""Loading that checks first, saving that is all or nothing, pushing that keeps our card.

A repository is downloaded at one commit, and a folder is checked, before transformers sees it. Nothing from the folder
is run: `trust_remote_code` is refused here, because this is the one place where code could be let in. The public names
of the modules beside this one are collected here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import CheckpointError, HubsepError
from .arguments import check_device_map, check_precision, check_saving
from .atomic import atomic_folder, recover, verify_manifest
from .bars import reports_if_loaded, without_bar
from .bounds import shown
from .cards import README, carry_card
from .checks import check_folder
from .config import HubsepConfigMixin, config_errors, memory_errors
from .copies import is_named
from .json_files import read_json
from .loading import library_errors
from .push import WEIGHTS, push_folder
from .resolve import check_task, checked_folder, inside, resolve_folder
from .tensors import EXPONENT_BITS, StoredTensor


if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel as _Model
    from typing_extensions import Self
else:
    _Model = object  # named as the second base by every model, after this mixin

HUB_OPTIONS = ("token", "revision", "cache_dir", "force_download", "local_files_only", "commercial")
MAX_SHARD_SIZE = "15MB"
# a model whose configuration asks for more than this many times the stored numbers is a mistake or an attack
PARAMETERS_PER_STORED = 4
UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")

_stored_elements: ContextVar[int | None] = ContextVar("stored_elements", default=None)


class HubsepModelMixin(_Model):
    """First base of every model: `class X(HubsepModelMixin, PreTrainedModel)`."""

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        output_loading_info: Literal[False] = ...,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        strict: bool = True,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        subfolder: str = "",
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder or repository after checking all of it.

        Takes what transformers takes, `device_map` and `dtype` included. `strict=False` allows weights that do not fit
        the configuration, for instance to put a new head on a trained body; `ignore_mismatched_sizes` allows other
        shapes only. Pickles and remote code are refused whatever is asked.

        Raises:
            CheckpointError: naming the file or tensor and the reason.
        """
        if pretrained_model_name_or_path is None:  # weights are given as `state_dict`
            return super().from_pretrained(None, *model_args, output_loading_info=output_loading_info, **kwargs)
        _refuse_unsafe(kwargs)
        _check_places(kwargs)
        hub: dict[str, Any] = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = inside(resolve_folder(pretrained_model_name_or_path, **hub), subfolder)
        tensors = check_folder(folder)
        if kwargs.get("config") is None:
            _check_config(cls, folder, tensors)
        stored = sum(tensor.elements for tensor in tensors) if strict else None
        with reports_if_loaded():
            with _load_errors(folder), memory_errors(shown(folder.name)), _budget(stored), without_bar():
                model, info = super().from_pretrained(
                    folder,
                    *model_args,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    use_safetensors=True,
                    local_files_only=True,
                    **kwargs,
                )
            if strict:
                _check_loaded(info, ignore_mismatched_sizes)
                _check_kinds(model, tensors)
        return (model, info) if output_loading_info else model

    @property
    def surveys(self) -> tuple[Callable[..., dict[str, Tensor]], ...]:
        """What goes over a whole recording, piece by piece, before any part of it is separated; nothing by default."""
        return ()

    def get_input_embeddings(self) -> None:
        """None: what is heard is looked up in no table. torchao's quantiser asks for it, and fails at an error."""

    def post_init(self) -> None:
        """As in transformers; while loading, the number of parameters is checked before any of them gets memory."""
        stored = _stored_elements.get()
        wanted = sum(parameter.numel() for parameter in self.parameters()) if stored is not None else 0
        if stored is not None and wanted > stored * PARAMETERS_PER_STORED:
            raise CheckpointError(
                f"config.json describes {wanted} parameters, but the weights hold {stored} numbers: they do not "
                "belong together."
            )
        super().post_init()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        push_to_hub: bool = False,
        variant: str | None = None,
        repo_id: str | None = None,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write configuration and weights, all or nothing; what else the folder holds (processor, card) stays.

        A folder without a card gets that of the folder the model was loaded from: see `hub/cards.py`.

        Takes what transformers takes. A folder that loading would refuse is not written.

        Raises:
            CheckpointError: the folder cannot be written, or the model holds NaN or infinities.
        """
        hub = {name: kwargs.pop(name) for name in ("commit_message", "private", "create_pr") if name in kwargs}
        options = {"max_shard_size": max_shard_size, "variant": variant, **kwargs}
        check_saving(save_directory, max_shard_size, variant)
        if not is_main_process:  # takes part in gathering the weights, writes nothing
            super().save_pretrained(save_directory, is_main_process=False, **options)
            return
        with atomic_folder(save_directory, keep=lambda name: not is_weights_of_model(name, variant)) as folder:
            with _write_errors(save_directory):
                super().save_pretrained(folder, **options)
            if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
                carry_card(folder, self.config.name_or_path)
                check_folder(folder)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).resolve().name, token=token, **hub)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | os.PathLike[str] | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
        **options: Any,
    ) -> str:
        """Push the model and its card in one commit and return the commit's address.

        The card is `card` (a file), else the one of the folder the model was loaded from, else a short one. A card in
        the repository is kept unless `card` is given or transformers wrote it. Takes `commit_message`,
        `commit_description`, `private`, `token`, `revision`, `create_pr` and `tags`, as transformers does.
        """
        loaded_from = Path(getattr(self.config, "name_or_path", "") or "") / README
        fallback = loaded_from if self.config.name_or_path and is_named(loaded_from) else None

        def save(folder: Path) -> None:
            self.save_pretrained(folder, max_shard_size=max_shard_size)

        return push_folder(repo_id, save, card=card, fallback=fallback, **options)


def _refuse_unsafe(kwargs: dict[str, Any]) -> None:
    ways = {
        "trust_remote_code": (None, False),
        "use_safetensors": (None, True),
        "weights_only": (None, True),
        "gguf_file": (None,),
    }
    for name, accepted in ways.items():
        value = kwargs.pop(name, None)
        if value not in accepted:
            raise CheckpointError(f"{name}={shown(value)} is refused: only .safetensors are loaded, and no code.")
    config = kwargs.get("config")
    if isinstance(config, str | os.PathLike):
        raise CheckpointError("config must be a configuration object, not the name of a file.")


def _check_places(kwargs: dict[str, Any]) -> None:
    """Precision and place of the weights, as the caller wants them, before anything is read."""
    for name in ("dtype", "torch_dtype"):
        if name in kwargs:
            kwargs[name] = check_precision(kwargs[name], name)
    check_device_map(kwargs.get("device_map"))


@contextmanager
def _load_errors(folder: Path) -> Iterator[None]:
    """What transformers says of arguments that it cannot do, as one error of ours."""
    try:
        with library_errors(shown(folder.name)):
            yield
    except CheckpointError as error:
        if isinstance(error.__cause__, RuntimeError) and "meta device context" in str(error.__cause__):
            raise error.__cause__ from None  # a fault of the code around the call, as transformers says it
        argument = UNKNOWN_ARGUMENT.search(str(error.__cause__)) if isinstance(error.__cause__, TypeError) else None
        if argument is None:
            raise
        raise CheckpointError(
            f"{argument[1]} is neither an argument of from_pretrained nor a field of the model's configuration; leave "
            "it out."
        ) from error


def _check_config(model_class: Any, folder: Path, tensors: list[StoredTensor]) -> None:
    """Build the configuration alone, so that nothing is allocated for one that is wrong."""
    config_class = model_class.config_class
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type != config_class.model_type:
        raise CheckpointError(
            f"config.json: model_type is {shown(model_type)}; {model_class.__name__} loads "
            f"{config_class.model_type!r}."
        )
    try:
        with config_errors(config_class.__name__):
            config = config_class.from_pretrained(folder)
    except HubsepError as error:
        raise CheckpointError(f"config.json: {error}") from error
    estimate = config.estimated_parameters() if isinstance(config, HubsepConfigMixin) else None
    stored = sum(tensor.elements for tensor in tensors)
    if estimate is not None and estimate > PARAMETERS_PER_STORED * stored:
        raise CheckpointError(
            f"config.json describes about {estimate} parameters, but the weights hold {stored} numbers: they do not "
            "belong together."
        )


def _check_loaded(info: dict[str, Any], ignore_mismatched_sizes: bool) -> None:
    problems = {"missing_keys": "are missing", "unexpected_keys": "belong to no part of the model"}
    if not ignore_mismatched_sizes:
        problems["mismatched_keys"] = "have another shape than the configuration asks for"
    for kind, words in problems.items():
        names = sorted(str(key[0]) if isinstance(key, tuple) else str(key) for key in info.get(kind) or ())
        if names:
            raise CheckpointError(
                f"the weights do not fit config.json: {len(names)} {words}, the first is {shown(names[0])}. Pass "
                "strict=False to load them all the same."
            )


def _check_kinds(model: Any, tensors: list[StoredTensor]) -> None:
    """A whole number stored where the model has a fraction would be cast without a word, and the reverse rounded."""
    state = model.state_dict()
    for tensor in tensors:
        held = state.get(tensor.name)
        if held is not None and held.is_floating_point() != (tensor.dtype in EXPONENT_BITS):
            raise CheckpointError(f"{shown(tensor.name)} is stored as {tensor.dtype}; the model has {held.dtype}.")


def is_weights_of_model(name: str, variant: str | None = None) -> bool:
    """Whether a file has the name under which transformers saves a model's weights; all others are somebody else's.

    Args:
        name: of an entry of the folder.
        variant: part of the name, such as `fp16`.
    """
    match = WEIGHTS.fullmatch(name)
    return match is not None and match[1] == (f"model.{variant}" if variant else "model")


@contextmanager
def _budget(stored: int | None) -> Iterator[None]:
    mark = _stored_elements.set(stored)
    try:
        yield
    finally:
        _stored_elements.reset(mark)


@contextmanager
def _write_errors(target: str | os.PathLike[str]) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{shown(os.fspath(target), 200)} could not be written: {error}. Nothing of what was there is lost."
        ) from error


__all__ = [
    "HubsepConfigMixin",
    "HubsepModelMixin",
    "atomic_folder",
    "check_folder",
    "is_weights_of_model",
    "check_task",
    "checked_folder",
    "recover",
    "resolve_folder",
    "verify_manifest",
]
