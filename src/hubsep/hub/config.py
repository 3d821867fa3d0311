# SPDX-License-Identifier: Apache-2.0
"""A base for configurations that were written by somebody else.

transformers keeps unknown keys and checks the type of its own fields only. Here every field is checked before
anything is built from it, unknown keys are errors, and whatever else goes wrong while a `config.json` becomes an
object is one `CheckpointError`. What a system says to the pipeline about itself has its default here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from ..errors import CheckpointError, HubsepError, is_out_of_memory
from ..registry import SYSTEMS
from .bounds import bounded, shown


if TYPE_CHECKING:
    from transformers import PreTrainedConfig as _Config

    from ..chunking import Segments
else:
    _Config = object  # named as the second base by every configuration, after this mixin


# what transformers itself, its Trainer included, passes to or sets on a configuration
KNOWN_KEYS = frozenset(
    """_attn_implementation_autoset _commit_hash _name_or_path attn_implementation bos_token_id dtype eos_token_id
    experts_implementation model_type name_or_path num_labels output_attentions pad_token_id tie_word_embeddings
    torch_dtype use_cache""".split()
)


FREE_SCALE_LOSSES = ("pit_si_snr", "si_sdr")  # of `hubsep.losses`: they leave the level of the sources open
MAX_SEGMENT_SAMPLES = 2**26
MAX_SEGMENT_NUMBERS = 2**30  # 4 GiB in float32


class _TaskWithoutCode(dict[str, Any]):
    """One task by its name; asked whether the folder brings code for it, the answer is no.

    `transformers.pipeline(model=folder)` takes the task from `config.custom_pipelines`, if there is one, and then runs
    the folder's code if that task is in it. Else it would ask the Hub, which knows no folder.
    """

    def __contains__(self, task: object) -> bool:
        return False


class HubsepConfigMixin(_Config):
    """First base of a configuration, before `PreTrainedConfig`; override `check_fields`.

    Attributes:
        is_text_queried: whether the model is asked for its sources, in words.
        unordered_sources: whether any of the model's sources may come out at any place.
        free_scale: whether the levels of the model's sources mean nothing.
        sequential: whether the model goes on where it ended, from the slots of the segment before.
        reference_level_db: the level a pipeline brings recordings to, RMS in dB of full scale; None for a model that
            takes them as they are.
        call_options: fields that change nothing but how a loaded model is used; they may be chosen for a call.
        known_sounds: what the weights were trained on, by name, where sources are asked for.
        query_classes: the meanings of queries that the model tells apart, if it has a list of them.
    """

    # What a pipeline has to know of a model. A system overrides what is different for it, by an attribute, by a
    # property where it follows from other fields, or by a field; only fields are part of `config.json`.
    is_text_queried: bool = False
    if TYPE_CHECKING:  # to be read only, so that a property may stand in their place

        @property
        def unordered_sources(self) -> bool: ...
        @property
        def free_scale(self) -> bool: ...
    else:
        unordered_sources = False
        free_scale = False
    sequential: bool = False
    reference_level_db: float | None = None
    call_options: tuple[str, ...] = ()
    known_sounds: Sequence[str] = ()
    query_classes: Sequence[str] = ()

    def exact_segments(self, samples: int) -> Segments | None:
        """Pieces of about `samples` whose sources add up to those of the whole recording; None where there are none.

        Args:
            samples: length of a piece.
        """
        return None

    @staticmethod
    def complete_options(options: dict[str, Any]) -> dict[str, Any]:
        """Options of a call, with those that follow from others.

        Args:
            options: names of `call_options`, and values.
        """
        return options

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """The task of the model, for `transformers.pipeline(model=folder)`; no part of `config.json`."""
        system = SYSTEMS.get(self.model_type)
        return _TaskWithoutCode({system.task: {}} if system is not None and system.pipeline is not None else {})

    def check_fields(self) -> None:
        """Check every field of the configuration, with `bounded` and its neighbours of `hubsep.hub.checks`.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """

    def check_segments(self) -> None:
        """Check what every system has: `sampling_rate`, `segment_samples` and `overlap_samples`.

        For `check_fields` to call after the fields that `minimum_samples` and `segment_numbers` follow from.

        Raises:
            CheckpointError: naming the field, its value and the limits.
        """
        config: Any = self
        bounded("sampling_rate", config.sampling_rate, 1_000, 768_000)
        bounded("segment_samples", config.segment_samples, config.minimum_samples, MAX_SEGMENT_SAMPLES)
        bounded("overlap_samples", config.overlap_samples, 0, config.segment_samples - 1)
        if config.reference_level_db is not None:
            bounded("reference_level_db", config.reference_level_db, -80, 0, kind=float)
        numbers = self.segment_numbers()
        if numbers > MAX_SEGMENT_NUMBERS:
            raise CheckpointError(
                f"segment_samples is {config.segment_samples}: with these sizes a segment takes about "
                f"{numbers * 4 / 2**30:.1f} GiB, and at most {MAX_SEGMENT_NUMBERS * 4 / 2**30:g} GiB are accepted."
            )

    def segment_numbers(self) -> int:
        """About how many numbers `forward` holds at a time over one segment, computed from the fields alone.

        Within a factor of a few: it tells a model from a mistake, not which computer is large enough.
        """
        config: Any = self
        return 8 * int(config.segment_samples)

    def estimated_parameters(self) -> int | None:
        """About how many parameters the model will have, computed from the fields alone; None if not known."""
        return None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(kwargs.keys() - KNOWN_KEYS.union(getattr(self, "attribute_map", {})))
        if unknown:
            raise CheckpointError(f"{type(self).__name__} has no field {shown(unknown[0])}.")
        self.check_fields()
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; fields that keyword arguments replace are checked again."""
        with_rest = kwargs.pop("return_unused_kwargs", False)
        with config_errors(cls.__name__):
            config, rest = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
            config.check_fields()
        return (config, rest) if with_rest else config


@contextmanager
def config_errors(name: str) -> Iterator[None]:
    """Turn whatever a configuration raises while it is built into a `CheckpointError` naming it."""
    try:
        yield
    except HubsepError:
        raise
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{name} cannot be built from these values: {shown(reason, 200)}.") from error


@contextmanager
def memory_errors(label: str) -> Iterator[None]:
    """Says what there was too little memory for.

    Raises:
        CheckpointError: in place of what Python and torch raise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(_too_little(label)) from error


def _too_little(label: str) -> str:
    return f"{label}: there is not enough memory for it. Load it in half precision, or on a computer with more."


__all__ = ["HubsepConfigMixin", "config_errors", "memory_errors"]
