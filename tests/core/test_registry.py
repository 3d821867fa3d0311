# SPDX-License-Identifier: Apache-2.0
"""What transformers' tables hold of hubsep: classes, imported when somebody looks one up and not before."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from transformers.models.auto import (
    configuration_auto,
    feature_extraction_auto,
    modeling_auto,
    processing_auto,
    tokenization_auto,
)
from transformers.pipelines import PIPELINE_REGISTRY

from hubsep import AudioSeparationPipeline
from hubsep.hub.config import HubsepConfigMixin
from hubsep.registration import Later, LazyTable
from hubsep.registry import GENERATION_CONFIG, GENERATION_MODEL, GENERATION_READER, SYSTEMS, TASK, locate


ROWS = list(SYSTEMS.values())
TABLES: list[tuple[Any, dict[Any, str | None]]] = [
    (configuration_auto.CONFIG_MAPPING, {row.model_type: row.config for row in ROWS if row.config}),
    (processing_auto.PROCESSOR_MAPPING, {row.config: row.processor for row in ROWS if row.processor}),
    (
        feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING,
        {row.config: row.feature_extractor for row in ROWS if row.feature_extractor},
    ),
    (modeling_auto.MODEL_MAPPING, {row.config: row.model for row in ROWS if row.model}),
    (modeling_auto.MODEL_FOR_PRETRAINING_MAPPING, {row.config: row.pretraining for row in ROWS if row.pretraining}),
    (modeling_auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING, {GENERATION_CONFIG: GENERATION_MODEL}),
    (tokenization_auto.TOKENIZER_MAPPING, {GENERATION_CONFIG: GENERATION_READER}),
]
ENTRIES = [
    pytest.param(mapping, key, path, id=f"{index}-{key.rpartition('.')[2]}")
    for index, (mapping, expected) in enumerate(TABLES)
    for key, path in expected.items()
]


@pytest.mark.parametrize(("mapping", "key", "path"), ENTRIES)
def test_what_a_table_of_transformers_holds_of_ours_is_the_class(mapping: Any, key: str, path: str) -> None:
    found = mapping[locate(key) if "." in key else key]
    assert found is locate(path)
    assert issubclass(type("Own", (found,), {}), found)
    ours = mapping._extra_content  # all of a table of transformers cannot be listed where an extra is missing
    assert found in list(ours.values())
    assert found in [each for _, each in ours.items()]
    assert found in copy.copy(ours).values()


FLAGS = {
    "is_text_queried": False, "unordered_sources": False, "free_scale": False, "sequential": False,
    "reference_level_db": None, "call_options": (), "known_sounds": (), "query_classes": (),
}  # fmt: skip


def test_what_a_system_does_not_say_of_itself_has_one_default() -> None:
    assert {name: getattr(HubsepConfigMixin, name) for name in FLAGS} == FLAGS
    assert HubsepConfigMixin.complete_options({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("row", [row for row in ROWS if row.config], ids=lambda row: row.model_type)
def test_only_fields_are_in_the_file_of_a_configuration(row: Any) -> None:
    config = locate(row.config)()
    assert all(hasattr(config, name) for name in FLAGS)
    written = FLAGS.keys() & json.loads(config.to_json_string(use_diff=False)).keys()
    assert written <= {field.name for field in dataclasses.fields(config)}


def test_the_pipeline_of_transformers_table_is_the_class() -> None:
    row = PIPELINE_REGISTRY.supported_tasks[TASK]
    assert row["impl"] is row.get("impl") is {**row}["impl"] is AudioSeparationPipeline
    assert not hasattr(AudioSeparationPipeline, "_registered_impl"), "saving would copy source files"


@pytest.mark.parametrize(
    "read",
    [lambda t: t["a"], lambda t: t.get("a"), lambda t: dict(t)["a"], lambda t: {**t}["a"], lambda t: t.copy()["a"],
     lambda t: next(iter(t.values())), lambda t: dict(t.items())["a"], lambda t: pickle.loads(pickle.dumps(t))["a"]],
)  # fmt: skip
def test_no_way_of_reading_a_table_hands_out_what_stands_for_a_class(read: Callable[[LazyTable], Any]) -> None:
    table = LazyTable(a=Later("pathlib.Path", locate), b=int)
    assert "a" in table
    assert len(table) == 2
    assert read(table) is locate("pathlib.Path")
    assert table.get("c") is None


@pytest.mark.slow
def test_looking_up_nothing_imports_no_model() -> None:
    code = (
        "import sys, hubsep; from transformers.models.auto import modeling_auto, processing_auto; "
        "print(*(name for name in sys.modules if name.startswith('hubsep.models.') and '.modeling_' in name))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
