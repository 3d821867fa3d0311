# SPDX-License-Identifier: Apache-2.0
"""`pipeline("text-to-audio")` of AudioLDM 2: whatever it is given is used, or refused with one clear error."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_audioldm2 import tiny_components

import hubsep
from hubsep import AudioLDM2Pipeline
from hubsep.errors import HubsepError, QueryError


QUICK = {"num_inference_steps": 1, "seconds": 0.1}
MESSAGE = {"role": "user", "content": "rain"}
VALUES: list[Any] = [
    -1, 0, 2**70, float("nan"), float("inf"), "x", b"x", [], ["a", 1], {}, {1: 2}, object(), 1j, "\ud800",
    torch.zeros(2), torch.zeros(1, 3, 4, device="meta"), torch.zeros(1, 3, 4).to_sparse(), np.zeros(3),
]  # fmt: skip
OPTIONS = [name for name in inspect.signature(AudioLDM2Pipeline.__call__).parameters if name != "self"]
OPTIONS += ["forward_params", "generate_kwargs", "batch_size", "num_workers", "processor_kwargs"]


@pytest.fixture(scope="module")
def make() -> Any:
    pipe = AudioLDM2Pipeline(**tiny_components())
    pipe.set_progress_bar_config(disable=True)
    return hubsep.pipeline("text-to-audio", model=pipe)


def is_sound(result: Any) -> bool:
    return set(result) == {"audio", "sampling_rate"} and bool(np.isfinite(result["audio"]).all())


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_every_kind_of_value(name: str, make: Any) -> None:
    quick = {key: value for key, value in QUICK.items() if name != "audio_length_in_s" or key != "seconds"}
    refusals: list[Exception] = []
    for value in VALUES:
        try:
            assert is_sound(make("rain", **{**quick, name: value})), value
        except (HubsepError, TypeError) as error:
            refusals.append(error)
    for refusal in refusals:
        assert "\n" not in str(refusal)
        assert isinstance(refusal, HubsepError) or "a call has no option" in str(refusal), refusal
    assert len(refusals) >= len(VALUES) / 2


WRONG = [
    None, 5, 1.5, True, b"rain", [], (), ["rain", 1], ["rain", None], [["rain", 1]], [[]], {}, {"text": "rain"},
    {"rain"}, object(), MESSAGE, [MESSAGE], [[MESSAGE]], "\ud800", ["rain", "\ud800"], np.array(["rain"]), range(3),
    torch.zeros(2), Path("rain"),
]  # fmt: skip


@pytest.mark.parametrize("texts", WRONG, ids=range(len(WRONG)))
def test_inputs_that_are_no_texts(texts: Any, make: Any) -> None:
    with pytest.raises(QueryError, match="a text") as caught:
        make(texts, **QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", [5, None, MESSAGE, [MESSAGE], [], b"rain"], ids=repr)
def test_generators_of_what_is_no_text(first: Any, make: Any) -> None:
    for endless in ((each for each in ["rain", first]), (each for each in [first]), iter([first])):
        with pytest.raises(QueryError, match="a prompt is a text"):
            list(make(endless, **QUICK))


@pytest.mark.slow
def test_texts_however_they_come(make: Any) -> None:
    def texts() -> Iterator[str]:
        yield from ("rain", "a dog barks")

    generator = torch.Generator()
    alone = [make(text, **QUICK, generator=generator.manual_seed(0)) for text in texts()]
    assert all(map(is_sound, alone))
    for several in (list(texts()), tuple(texts())):
        results = make(several, **QUICK)
        assert isinstance(results, list)
        assert [result["audio"].shape for result in results] == [result["audio"].shape for result in alone]
    for endless in (texts(), iter(list(texts()))):
        assert len(list(make(endless, **QUICK))) == 2
    assert len(make(list(texts()), batch_size=2, num_workers=0, **QUICK)) == 2
    assert list(make(iter([]), **QUICK)) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("output_type", r"what comes out are arrays; .pipe\(text, output_type="),
        ("return_dict", r"what comes out are dicts; .pipe\(text, return_dict="),
        ("prompt", "the texts are the first argument"),
    ],
)
def test_options_that_are_settled_name_the_way_out(name: str, says: str, make: Any) -> None:
    for options in ({name: "np"}, {"forward_params": {name: "np"}}, {"generate_kwargs": {name: "np"}}):
        with pytest.raises(QueryError, match=f"leave out {name}, got 'np': .*{says}"):
            make("rain", **options)
    wrong: dict[str, Any] = {name: "np"}
    with pytest.raises(QueryError, match=f"leave out {name}"):
        hubsep.pipeline("text-to-audio", model=make.pipe, **wrong)


@pytest.mark.parametrize(
    "returned", [5, [], "x", {"latents": None}, {"latents": 5}, {"latents": torch.zeros(1)}], ids=repr
)
def test_callbacks_that_return_no_latents(returned: Any, make: Any) -> None:
    with pytest.raises(QueryError, match=r"callback_on_step_end must return .* it returned"):
        make("rain", **QUICK, callback_on_step_end=lambda *arguments: returned)


def test_the_same_in_transformers_own_pipeline(make: Any, tmp_path: Path) -> None:
    make.save_pretrained(tmp_path / "model")
    theirs = transformers.pipeline("text-to-audio", model=str(tmp_path / "model"), device="cpu")
    for texts in (None, 5, ["rain", 1]):
        with pytest.raises(QueryError, match="a prompt is a text"):
            theirs(texts, forward_params=dict(QUICK))
    with pytest.raises(QueryError, match="leave out output_type"):
        theirs("rain", forward_params={**QUICK, "output_type": "x"})
    assert is_sound(theirs("rain", forward_params=dict(QUICK)))
