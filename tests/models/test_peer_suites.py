# SPDX-License-Identifier: Apache-2.0
"""transformers' `ModelTesterMixin` on every model, and a table of what of it does not apply, and why."""

from __future__ import annotations

import copy
import re
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peer_suites import fetched, loaded, run_cases
from tiny_audiomae import spectrograms, tiny_audiomae, tiny_pretraining
from tiny_audiosep import tiny_audiosep
from tiny_audioslots import tiny_audioslots
from tiny_conv_tasnet import tiny_conv_tasnet
from tiny_meta_tasnet import tiny_meta_tasnet
from tiny_sepformer import tiny_sepformer
from tiny_spleeter import tiny_spleeter
from torch import Tensor

from hubsep import AudioMAEModel


pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]

BATCH = 2
# what the archive leaves out, and what is wanted of it
ABSENT = {
    "exporters": "",
    "exporters.test_export": "ExportTesterMixin",
    "generation": "",
    "generation.test_utils": "GenerationTesterMixin",
}


def waveforms(model: Any, samples: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(BATCH, model.config.num_channels, samples)}


def separator(make: Callable[[], Any], samples: int) -> Callable[[], tuple[Any, dict[str, Tensor]]]:
    def made() -> tuple[Any, dict[str, Tensor]]:
        model = make()[0]
        return model, waveforms(model, samples)

    return made


def queried() -> tuple[Any, dict[str, Tensor]]:
    model, _ = tiny_audiosep()
    query_config: Any = model.config.query_config
    return model, {
        **waveforms(model, 2_000), "query_embeds": torch.randn(BATCH, 1, query_config.projection_dim)
    }  # fmt: skip


def pretraining() -> tuple[Any, dict[str, Tensor]]:
    model = tiny_pretraining()
    config = model.config
    patches = config.num_frames * config.num_mel_bins // config.patch_size**2
    return model, {"input_features": spectrograms(BATCH), "noise": torch.rand(BATCH, patches)}


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Tensor]]]] = {
    "audiomae": lambda: (tiny_audiomae(), {"input_features": spectrograms(BATCH)}),
    "audiomae for pre-training": pretraining,
    "audiosep": queried,
    "audioslots": separator(tiny_audioslots, 4_000),
    "conv_tasnet": separator(tiny_conv_tasnet, 2_000),
    "meta_tasnet": separator(tiny_meta_tasnet, 4_000),
    "sepformer": separator(tiny_sepformer, 2_000),
    "spleeter": separator(tiny_spleeter, 8_000),
}
# tests of transformers that do not apply, and why: every one of them fails for every model
NOT_APPLICABLE = {
    "test_hidden_states_output": "models keep no hidden states, and say so where they are asked for",
    "test_model_outputs_equivalence": "asks for hidden states at its end; tuples and dicts are compared before",
    "test_retain_grad_hidden_states_attentions": "looks at hidden states",
    "test_model_get_set_embeddings": "there is no table of words",
    "test_model_weights_reload_no_missing_tied_weights": "saves two numbers as weights, which loading refuses",
}


# the same of one model
OF_ONE: dict[str, dict[str, str]] = {
    "audiomae for pre-training": {"test_correct_missing_keys": "missing weights are an error, and no warning"},
    "audiosep": {
        "test_can_capture_specific_layers_hidden_states": "looks at CLAP's layers, which give nothing here",
        "test_capture_outputs_decorator": "the same",
    },
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> ModuleType:
    tests = fetched("transformers", "HUBSEP_TRANSFORMERS_TESTS", tmp_path_factory.mktemp("transformers"))
    for name in re.findall(r"\bmark\.(\w+)", (tests / "test_modeling_common.py").read_text(encoding="utf-8")):
        pytestconfig.addinivalue_line("markers", f"{name}: of transformers")
    pytest.importorskip("parameterized", reason="transformers' tests need it; pip install parameterized")
    return loaded(tests, "test_modeling_common", ABSENT)


class Tester:
    """What the mixin asks of a model's tester."""

    __test__ = False  # pytest takes the name for its own

    batch_size = BATCH
    seq_length = 8

    def __init__(self, make: Callable[[], tuple[Any, dict[str, Tensor]]]):
        model, self.inputs = make()
        self.kind, self.config = type(model), model.config
        self.is_training = not isinstance(model, AudioMAEModel)  # which has no loss of its own

    def get_config(self) -> Any:
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Tensor]]:
        return self.get_config(), {name: tensor.clone() for name, tensor in self.inputs.items()}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


def cases_of(mixin: type, make: Callable[[], tuple[Any, dict[str, Tensor]]]) -> type[unittest.TestCase]:
    tester = Tester(make)

    class Cases(mixin, unittest.TestCase):
        all_model_classes = (tester.kind,)
        test_resize_embeddings = False
        has_attentions = False

        def setUp(self) -> None:
            self.model_tester = tester

        def _prepare_for_class(self, inputs: Any, kind: Any, return_labels: bool = False) -> Any:
            inputs = copy.deepcopy(inputs)
            if return_labels and "input_values" in inputs:
                shape = inputs["input_values"].shape
                seeded = torch.Generator().manual_seed(0)  # the same for every model of a test
                sources = getattr(tester.config, "num_sources", 1)
                inputs["labels"] = torch.randn(shape[0], sources, *shape[1:], generator=seeded)
            return inputs

    return Cases


@pytest.mark.parametrize("name", MODELS)
def test_a_model_passes_the_tests_that_transformers_has_for_all(
    name: str, theirs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_cases(cases_of(theirs.ModelTesterMixin, MODELS[name]))
    assert list(outcome.named.values()).count("passed") > 20
    failed, expected = outcome.failed(), {**NOT_APPLICABLE, **OF_ONE.get(name, {})}
    wrong = [f"{test}: {said}" for test, said in failed.items() if test not in expected]
    assert not wrong, "\n".join(wrong)
    assert expected.keys() <= failed.keys(), "passes now: take it out of the table"
