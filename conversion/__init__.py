# SPDX-License-Identifier: Apache-2.0
"""From the checkpoints their authors published to folders `from_pretrained` loads.

One module a system, which its row in the registry names, with a function `convert` and tables of key names. This is
the only place where a pickle is opened, and only with PyTorch's restricted unpickler.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hubsep.errors import ConversionError
from hubsep.hub.arguments import check_place
from hubsep.hub.bounds import shown
from hubsep.hub.commercial import is_wanted
from hubsep.registry import SYSTEMS, System, locate


if TYPE_CHECKING:
    from typing import TypeAlias

    from hubsep.models.audiomae.modeling_audiomae import AudioMAEModel
    from hubsep.models.audiosep.modeling_audiosep import AudioSepForAudioSeparation
    from hubsep.models.conv_tasnet.modeling_conv_tasnet import ConvTasNetForAudioSeparation
    from hubsep.models.meta_tasnet.modeling_meta_tasnet import MetaTasNetForAudioSeparation
    from hubsep.models.sepformer.modeling_sepformer import SepFormerForAudioSeparation
    from hubsep.models.spleeter.modeling_spleeter import SpleeterForAudioSeparation
    from hubsep.pipelines.audioldm2.pipeline import AudioLDM2Pipeline

    Place: TypeAlias = str | os.PathLike[str]


@overload
def convert(
    model_type: Literal["audioldm2"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> AudioLDM2Pipeline: ...


@overload
def convert(
    model_type: Literal["audiomae"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> AudioMAEModel: ...


@overload
def convert(
    model_type: Literal["audiosep"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> AudioSepForAudioSeparation: ...


@overload
def convert(
    model_type: Literal["conv_tasnet"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> ConvTasNetForAudioSeparation: ...


@overload
def convert(
    model_type: Literal["meta_tasnet"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> MetaTasNetForAudioSeparation: ...


@overload
def convert(
    model_type: Literal["sepformer"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> SepFormerForAudioSeparation: ...


@overload
def convert(
    model_type: Literal["spleeter"],
    source: Place,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> SpleeterForAudioSeparation: ...


@overload
def convert(
    model_type: Place,
    source: None = ...,
    output: Place | None = ...,
    *,
    licence: str | None = ...,
    commercial: bool | None = ...,
    **overrides: Any,
) -> Any: ...


def convert(
    model_type: Place,
    source: Place | None = None,
    output: Place | None = None,
    *,
    licence: str | None = None,
    commercial: bool | None = None,
    **overrides: Any,
) -> Any:
    """Converts a published checkpoint; the same input gives the same bytes.

    `convert("speechbrain/sepformer-wsj02mix", output="sepformer")` names what is converted alone: a published
    checkpoint by its name or address, which is fetched and converted in a process of its own, or a local file or
    folder that is recognised. System and licence are then those of the table, or of the card in the folder.

    Args:
        model_type: the system, as `hubsep list` names it; without `source`, what is converted.
        source: what the authors publish, a file or a folder, or a `.safetensors` file of the same keys.
        output: folder to write the model, its processor and its card to; it appears complete or not at all. Without
            it nothing is written, and the model has memory of its own. With it, the model that is returned is read
            from the source when it is used, like one that is mapped into memory: load the folder instead. Of a
            published name, what is kept is opened without it, and the folder with it.
        licence: of the weights, for the card: an SPDX id, or "unknown". Where nobody states it there is no default,
            since nobody but the person who converts can know.
        commercial: whether weights that may not be used commercially are refused, before they are fetched; None for
            what the environment variable HUBSEP_COMMERCIAL says.
        overrides: what the source does not hold: fields of the configuration by name, and options of the system's
            converter.

    Returns:
        The model, in evaluation mode; of AudioLDM 2, which is several models, the pipeline.

    Raises:
        ConversionError: the source is unsafe or broken, or does not hold what the system needs, or an override or the
            licence is missing or wrong, or another one than the source states.
        CheckpointError: `output` cannot be written, or the weights may not be used commercially and only such are
            wanted.
    """
    check_place("model_type", model_type, ConversionError)
    for name, place in (("source", source), ("output", output)):
        if place is not None and not check_place(name, place, ConversionError):
            raise ConversionError(f"{name} is empty; name a file or a folder")
    if source is None:
        return _convert_named(os.fspath(model_type), output, licence, commercial, overrides)
    system = SYSTEMS.get(model_type) if isinstance(model_type, str) else None
    if system is None or system.converter is None:
        convertible = ", ".join(name for name, row in SYSTEMS.items() if row.converter)
        raise ConversionError(f"{shown(model_type)} cannot be converted; there are converters for {convertible}")
    if is_wanted(commercial):
        from .named import Source, check_source_commercial
        from .sources import licence_of

        place = Path(source)
        named = Source(os.fspath(source), system.model_type, place)
        check_source_commercial(named, licence or licence_of(place) or "unknown", commercial=True)
    return _convert_local(system, Path(source), output, licence, overrides)


def _convert_local(
    system: System, source: Path, output: Place | None, licence: str | None, overrides: dict[str, Any]
) -> Any:
    """What `convert` does with a file or folder."""
    if output is not None:
        from .writing import check_licence, check_readme

        check_readme(check_licence(licence), source)
    module = importlib.import_module(str(system.converter))
    result = module.convert(source, None if output is None else Path(output), licence=licence, **overrides)
    if output is None:
        from .common import hold

        hold(result)
    return result


def _convert_named(
    name: str, output: Place | None, licence: str | None, commercial: bool | None, overrides: dict[str, Any]
) -> Any:
    """What `convert` does where the source alone is named."""
    from .named import check_source_commercial, check_source_licence, fetch_and_convert, find_source

    found = find_source(name)
    check_source_commercial(found, licence or found.licence or "unknown", commercial=commercial)
    system = SYSTEMS[found.system]
    if found.row is None:
        assert found.path is not None
        said = None if output is None else check_source_licence(found, licence)
        return _convert_local(system, found.path, output, said, overrides)
    if output is None and overrides:
        raise ConversionError(f"{shown(name)} is converted with settings of your own: say where to, with output=")
    if output is None:
        return _opened(found.system, found.row.name, commercial=commercial)
    folder, said = fetch_and_convert(found, Path(output), overrides, licence, commercial=commercial)
    if folder is not None:
        return _convert_local(system, folder, output, said, overrides)
    return _opened(found.system, output, found.row.opened_with)


def _opened(system: str, place: Place, opened_with: str | None = None, **hub: Any) -> Any:
    """The model in a folder, or of a name."""
    row = SYSTEMS[system]
    return locate(opened_with or row.model or row.pipeline or "").from_pretrained(place, **hub)


__all__ = ["convert"]
