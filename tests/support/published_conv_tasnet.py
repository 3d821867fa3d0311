# SPDX-License-Identifier: Apache-2.0
"""Files laid out as torchaudio and asteroid publish theirs, with the golden weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from renaming import renamed
from rounding import assert_same
from safetensors.torch import load_file
from torch import Tensor

from hubsep.conversion.conv_tasnet import POINTWISE, SIZES, STATED
from hubsep.metrics import separation as metrics


GOLDEN = Path(__file__).parents[1] / "golden" / "conv_tasnet"
SUMS = {"terms": 32 * 3, "layers": 30}  # channels times taps; six blocks of five sums
# our words in asteroid's, in the order they are replaced
WORDS = [
    (r"^(encoder|decoder)\.weight", r"\1.filterbank._filters"),
    (r"^masker\.norm\.weight", "masker.bottleneck.0.gamma"),
    (r"^masker\.norm\.bias", "masker.bottleneck.0.beta"),
    (r"^masker\.bottleneck\.(weight|bias)", r"masker.bottleneck.1.\1"),
    (r"^masker\.activation", "masker.mask_net.0"),
    (r"^masker\.head", "masker.mask_net.1"),
    (r"\.blocks\.(\d+)\.(residual|skip)\.", r".TCN.\1.\2_conv."),
    (r"\.residual_conv\.", ".res_conv."),
    (r"\.blocks\.(\d+)\.", r".TCN.\1.shared_block."),
    (r"\.expand\.", ".0."),
    (r"\.activation1\.", ".1."),
    (r"\.norm1\.weight", ".2.gamma"),
    (r"\.norm1\.bias", ".2.beta"),
    (r"\.kernel_bias", ".3.bias"),
    (r"\.kernel$", ".3.weight"),
    (r"\.activation2\.", ".4."),
    (r"\.norm2\.weight", ".5.gamma"),
    (r"\.norm2\.bias", ".5.beta"),
]

CASES = ("torchaudio", "asteroid", "asteroid_causal", "asteroid_causal_cgln", "asteroid_noskip")


def tensors(case: str = "asteroid") -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}_state_dict.safetensors")


def arguments(case: str = "asteroid") -> dict[str, Any]:
    return json.loads((GOLDEN / f"{case}_meta.json").read_text())["model_args"]


def write_asteroid(
    path: Path, state: dict[str, Tensor], case: str = "asteroid", facts: dict[str, Any] | None = None, **replaced: Any
) -> Path:
    """What asteroid's `serialize` and its Hub uploads leave, and `facts`; an argument that is `...` is left out."""
    model_args = {**arguments(case), **replaced}
    content = {
        "model_name": "ConvTasNet",
        "state_dict": state,
        "model_args": {name: value for name, value in model_args.items() if value is not ...},
        "infos": {"software_versions": {"torch_version": torch.__version__, "asteroid_version": "0.7.0"}},
        "dataset": "Libri2Mix",
        "licenses": [{"title_link": "link", "license": "CC BY 4.0", "non_commercial": False}],
        **(facts or {}),
    }
    torch.save(content, path)
    return path


def write(path: Path, case: str) -> Path:
    """The file of a case in the layout of its family."""
    if case == "torchaudio":
        torch.save(tensors(case), path)
        return path
    return write_asteroid(path, tensors(case), case)


def overrides(case: str) -> dict[str, Any]:
    """What a file of the case does not state."""
    return {"num_blocks": 3} if case == "torchaudio" else {}


def tensors_of(model: Any) -> dict[str, Tensor]:
    """The weights of a model of ours by asteroid's names, with the last residual convolution, which nothing uses."""
    config, state = model.config, {}
    for name, tensor in model.state_dict().items():
        if ".project." not in name:
            state[name] = tensor
            continue
        residual, skip = tensor[: -config.skip_channels], tensor[-config.skip_channels :]
        unused = torch.zeros(config.bottleneck_channels, *tensor.shape[1:])
        state[name.replace("project", "residual")] = residual if len(residual) else unused
        state[name.replace("project", "skip")] = skip
    for name, tensor in state.items():
        if name.endswith((".kernel", "decoder.weight")):
            tensor = tensor.T
        if name.endswith(POINTWISE):
            state[name] = tensor[..., None]
        elif name.endswith((".kernel", "coder.weight")):
            state[name] = tensor[:, None].contiguous()
    return renamed(state, WORDS)


def write_model(path: Path, model: Any, **replaced: Any) -> Path:
    """What asteroid's users publish of a model of ours; arguments as for `write_asteroid`."""
    config = model.config
    stated = {theirs: getattr(config, ours) for theirs, ours in {**SIZES, **STATED}.items()}
    widths = dict.fromkeys(("in_chan", "out_chan"), config.num_filters)
    return write_asteroid(path, tensors_of(model), **{**stated, **widths, **replaced})


@torch.inference_mode()
def assert_golden(model: Any, golden: dict[str, Tensor]) -> None:
    """It separates as the original does, of which `golden` is a file of vectors."""
    for name in (name for name in golden if name.startswith("mix")):
        sources, expected = model(golden[name]).sources[:, :, 0], golden[name.replace("mix", "est")]
        assert_same(sources, expected, **SUMS)
        assert metrics.si_sdr(sources.double(), expected.double()).min() > 90
