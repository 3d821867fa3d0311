# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of `AudioLDM2Pipeline` against diffusers' components as its own pipeline runs them, in float32.

`python benchmarks/audioldm2.py [--size tiny|published] [--dtype bfloat16] [--rounds 3] [--threads N]
[--parts text gpt2 step vae vocoder] [--memory]`

Speed: both sides have the same random weights and a process each, which take turns, so that other work on the machine
meets both; the figures are medians, of the clock and of the processor. `step` is one step with guidance at the model's
own length (10.24 s at the published size), 16 tokens of text; `single` one without. `text` is T5 on the prompt and on
the empty one, `gpt2` makes the 8 tokens of language of audio. What a whole sound takes is computed, for both sides:
steps times the time of a step, and the rest; diffusers takes 200 by default.

Memory (`--memory`): a folder in the published layout is written to a temporary place (4.5 GB at the published size),
and a fresh process for each way of loading it makes a sound of it, in `--steps` steps. "peak" is all that a process
ever held, with Python and its packages; the last column is how far the waveform is from the first row's, with the same
noise. Weights are random, so that says what rounding does to arithmetic, not to sounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import Variant, serve


PARTS = ("text", "gpt2", "step", "vae", "vocoder")
MODEL_OF = {"text": "t5", "step": "unet", "single": "unet"}
TOKENS, TEXT = 8, 16
STEPS = 200  # of diffusers
GB = 2**20 / 1e9  # of the megabytes that are measured
# steps, and the settings that save guidance
SETTINGS: tuple[tuple[int, dict[str, Any]], ...] = (
    (25, {}),
    (20, {}),
    (25, {"guidance_every": 2}),
    (20, {"guidance_every": 2}),
    (20, {"guidance_interval": (0.0, 0.7)}),
)
LOADING: dict[str, dict[str, Any]] = {
    "hubsep float32 on demand": {"dtype": "float32", "on_demand": True},
    "hubsep bfloat16 on demand": {"dtype": "bfloat16", "on_demand": True},
    "hubsep bfloat16": {"dtype": "bfloat16"},
    "diffusers float32": {},
}


def theirs(size: str, part: str, model: Any) -> Callable[[], Any]:
    """One part as diffusers' pipeline runs it."""
    from audioldm2_models import SIZES

    given, unet = SIZES[size], SIZES[size]["unet"]
    latents = torch.randn(1, unet["channels"], unet["sample_size"], unet["sample_size"] // 16)
    if part == "text":  # the empty prompt is padded to the length of the prompt
        tokens = torch.randint(4, 30, (1, TEXT))
        return lambda: (model(tokens), model(tokens))
    if part == "step":
        loa, text = torch.randn(2, TOKENS, given["loa"]), torch.randn(2, TEXT, given["text"])
        mask = torch.ones(2, TEXT, dtype=torch.long)
        mask[0, 1:] = 0
        return lambda: model(
            torch.cat([latents] * 2), 500, loa, encoder_hidden_states_1=text, encoder_attention_mask_1=mask
        )
    if part == "vae":
        return lambda: model.decode(latents)
    if part == "vocoder":
        frames = unet["sample_size"] * 2 ** (len(given["vae"]) - 1)
        return lambda: model(torch.randn(1, frames, model.config.model_in_dim))
    headed = with_head(model)

    def gpt2() -> None:  # keys and values kept, but logits of the whole vocabulary as well; for both prompts
        step, cache = torch.randn(2, TEXT + 5, given["loa"]), None
        for _ in range(TOKENS):
            output = headed(inputs_embeds=step, past_key_values=cache, use_cache=True, output_hidden_states=True)
            step, cache = output.hidden_states[-1][:, -1:], output.past_key_values

    return gpt2


def with_head(body: Any) -> Any:
    """GPT-2 with the head that diffusers cannot do without."""
    import transformers

    headed = transformers.GPT2LMHeadModel.__new__(transformers.GPT2LMHeadModel)
    transformers.GPT2PreTrainedModel.__init__(headed, body.config)
    headed.transformer = body
    headed.lm_head = torch.nn.Linear(body.config.n_embd, body.config.vocab_size, bias=False)
    headed.lm_head.weight = body.wte.weight
    return headed.eval()


def ours(size: str, part: str, model: Any) -> Callable[[], Any]:
    """One part as this package's pipeline runs it."""
    from audioldm2_models import SIZES

    from hubsep.pipelines.audioldm2.bfloat16.vocoder import decoded, vocoded
    from hubsep.pipelines.audioldm2.prompts import Prompts

    given, unet = SIZES[size], SIZES[size]["unet"]
    latents = torch.randn(1, unet["channels"], unet["sample_size"], unet["sample_size"] // 16)
    if part == "text":
        tokens, empty = torch.randint(4, 30, (1, TEXT)), torch.ones(1, 1, dtype=torch.long)
        return lambda: (model(tokens), model(empty))
    if part in ("step", "single"):
        return our_step(size, model, latents, guided=part == "step")
    if part == "vae":
        return lambda: decoded(model, latents)
    if part == "vocoder":
        frames = unet["sample_size"] * 2 ** (len(given["vae"]) - 1)
        return lambda: vocoded(model, torch.randn(1, frames, model.config.model_in_dim))
    reader = Prompts()
    reader.language_model = model
    embeds, mask = torch.randn(1, TEXT + 5, given["loa"]), torch.ones(1, TEXT + 5, dtype=torch.long)
    return lambda: reader.generate_loa(embeds, mask, TOKENS)


def our_step(size: str, model: Any, latents: torch.Tensor, *, guided: bool) -> Callable[[], Any]:
    """One step as this package's pipeline runs it."""
    from audioldm2_models import SIZES

    from hubsep.pipelines.audioldm2.attention import constant_contexts
    from hubsep.pipelines.audioldm2.bfloat16.unet import on_processor
    from hubsep.pipelines.audioldm2.conditions import Conditions
    from hubsep.pipelines.audioldm2.sampling import Guide

    given, device = SIZES[size], torch.device("cpu")
    loa, text = torch.randn(1, TOKENS, given["loa"]), torch.randn(1, TEXT, given["text"])
    told = Conditions(loa, text, torch.ones(1, TEXT)).to(device, model.dtype)
    away = Conditions(torch.zeros_like(told.loa), told.text[:, :1], torch.ones(1, 1))
    guide = Guide(told, away if guided else None, 3.5, (0.0, 1.0))
    held = ExitStack()  # lives as long as what is returned: without it what is entered would be left at once
    held.enter_context(constant_contexts(model, guide.contexts()))
    with torch.no_grad():
        held.enter_context(on_processor(model, device))

    def step(held: ExitStack = held) -> Any:
        return guide.predict(model, latents, torch.tensor(500), 0.5)

    return step


def work(options: argparse.Namespace) -> None:
    """Serves one part of one side."""
    from audioldm2_models import build

    side, part = options.work
    dtype = torch.float32 if side == "diffusers" else getattr(torch, options.dtype)
    model = build(options.size, MODEL_OF.get(part, part), dtype)
    run = theirs(options.size, part, model) if side == "diffusers" else ours(options.size, part, model)

    def silently() -> None:
        with torch.inference_mode():
            run()

    serve(silently)


def load(name: str, folder: Path, steps: int) -> None:
    """Serves a whole pipeline that is loaded in one way."""
    given = dict(LOADING[name])
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 3.5}
    if name.startswith("diffusers"):
        import diffusers
        import transformers

        headed = transformers.GPT2LMHeadModel.from_pretrained(folder / "language_model")
        pipe = diffusers.AudioLDM2Pipeline.from_pretrained(folder, language_model=headed)
    else:
        from hubsep import AudioLDM2Pipeline

        pipe = AudioLDM2Pipeline.from_pretrained(folder, dtype=getattr(torch, given.pop("dtype")), **given)
        options |= {"unconditional": "generated", "solver": "scheduler"}  # what diffusers does, for the last column
    pipe.set_progress_bar_config(disable=True)
    serve(lambda: pipe("rain on a tin roof", generator=torch.Generator().manual_seed(0), **options).audios)


def child(options: argparse.Namespace, *arguments: str) -> list[str]:
    own = ["--size", options.size, "--dtype", options.dtype, "--threads", str(options.threads)]
    return [sys.executable, __file__, *own, *arguments]


def speed(options: argparse.Namespace) -> None:
    """Prints the table of parts, and what a whole sound takes."""
    print(f"{options.size} size, {options.threads} threads; diffusers in float32, hubsep in {options.dtype}; seconds")
    print(f"  {'':8}{'diffusers':>18}{'hubsep':>18}{'faster':>18}{'peak, GB':>16}")
    print(f"  {'':8}{'clock':>9}{'CPU':>9}{'clock':>9}{'CPU':>9}{'clock':>9}{'CPU':>9}")
    clock: dict[tuple[str, str], float] = {}
    for part in options.parts:
        works = [("diffusers", part), ("hubsep", part), *([("hubsep", "single")] if part == "step" else [])]
        variants = [Variant(part, child(options, "--work", side, part)) for side, part in works]
        for _ in range(options.rounds + 1):
            for variant in variants:
                variant.call()
        for variant, found in zip(variants, works, strict=True):
            clock[found] = variant.median("clock")
            variant.close()
        for variant in variants[1:]:
            pair = variants[0], variant
            times = [each.median(what) for each in pair for what in ("clock", "processor")]
            ratios = times[0] / times[2], times[1] / times[3]
            peaks = [max(figures["peak"] for figures in each.figures) * GB for each in pair]
            numbers = "".join(f"{number:9.2f}" for number in (*times, *ratios, *peaks))
            print(f"  {variant.name:8}{numbers}", flush=True)
    if set(options.parts) == set(PARTS):
        whole(clock)


def whole(clock: dict[tuple[str, str], float]) -> None:
    """What a whole sound takes, from the times of its parts."""
    rest = {side: sum(clock[side, part] for part in PARTS if part != "step") for side in ("diffusers", "hubsep")}
    slow = STEPS * clock["diffusers", "step"] + rest["diffusers"]
    print(f"a whole sound, computed: diffusers {STEPS} steps, {slow:.1f} s; hubsep")
    for steps, settings in SETTINGS:
        guided = guided_steps(steps, **settings)
        fast = guided * clock["hubsep", "step"] + (steps - guided) * clock["hubsep", "single"] + rest["hubsep"]
        named = ", ".join([f"{steps} steps", *(f"{name}={value}" for name, value in settings.items())])
        print(f"  {named:42}{fast:8.1f} s{slow / fast:8.1f} x")


def guided_steps(steps: int, guidance_every: int = 1, guidance_interval: tuple[float, float] = (0.0, 1.0)) -> int:
    """In how many steps the U-Net predicts twice; as in the pipeline."""
    low, high = guidance_interval
    inside = [index for index in range(steps) if low <= index / max(1, steps - 1) <= high]
    return sum(1 for index in inside if index == inside[0] or index % guidance_every == 0)


def memory(options: argparse.Namespace) -> None:
    """Prints what a process holds for each way of loading."""
    from audioldm2_models import write_folder

    with tempfile.TemporaryDirectory(dir=options.place) as place:
        folder, made = write_folder(options.size, Path(place) / "model"), Path(place)
        print(f"a sound in {options.steps} steps, {options.size} size, stored in float32; GB, in a fresh process each")
        print(f"  {'':28}{'loaded':>8}{'peak':>8}{'seconds':>9}{'noise to signal':>18}")
        first = None
        for name in LOADING:
            variant = Variant(name, child(options, "--load", name, str(folder), "--steps", str(options.steps)))
            variant.call(made / "made.npy")
            figures, waveform = variant.figures[0], np.load(made / "made.npy").astype(np.float64)
            first = waveform if first is None else first
            off = 10 * np.log10(np.square(waveform - first).sum() / np.square(first).sum() + 1e-20)
            peaks = f"{variant.loaded * GB:8.2f}{figures['peak'] * GB:8.2f}{figures['clock']:9.1f}"
            print(f"  {name:28}{peaks}{off:15.1f} dB", flush=True)
            variant.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("published", "tiny"), default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--place", help="where the folder is written; by default where temporary files go")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.work:
        work(options)
    elif options.load:
        load(options.load[0], Path(options.load[1]), options.steps)
    elif options.memory:
        memory(options)
    else:
        speed(options)


if __name__ == "__main__":
    main()
