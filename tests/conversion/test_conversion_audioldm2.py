# SPDX-License-Identifier: Apache-2.0
"""AudioLDM 2's conversion: every published kind of file, the way back, and what does not fit.

What a converted U-Net, VAE and vocoder make is compared with what the same weights make in the authors' layout.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import original_audioldm2 as original
import published_audioldm2 as published
import pytest
import tiny_audioldm2 as tiny
import torch
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from promises_conversion import ConversionPromises
from rounding import assert_same
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5EncoderModel

from hubsep import AudioLDM2Pipeline
from hubsep.cli import main
from hubsep.conversion import audiomae, convert
from hubsep.conversion.audioldm2 import convert_scheduler
from hubsep.conversion.audioldm2.names import (
    UNET,
    VAE,
    VOCODER,
    forward,
    squeezed,
    unet_pairs,
    vae_pairs,
    vocoder_pairs,
)
from hubsep.conversion.audioldm2.networks import RATES, original_heads, unet_fields, vae_fields, vocoder_fields
from hubsep.conversion.audioldm2.parts import split
from hubsep.errors import ConversionError
from hubsep.shipped import SHIPPED


SUMS = {"terms": 64 * 9, "layers": 40}  # channels times taps, sums in a row
KINDS = ("base", "large", "speech", "48k")


def states(pipe: Any) -> dict[str, Tensor]:
    """All tensors of all components."""
    models = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": part for name, model in models.items() for key, part in model.state_dict().items()}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Overrides that name the tokenizers of each kind."""
    place = tmp_path_factory.mktemp("tokenizers")
    sounds = published.tokenizers(place / "sounds")
    speech = published.tokenizers(place / "speech", speech=True)
    words = {"tokenizer": sounds["tokenizer"]}
    return {"base": sounds, "large": sounds, "t5": sounds, "speech": speech, "48k": words}


@pytest.fixture(scope="module")
def told(tokenizers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {**published.told(), **tokenizers["base"]}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory, tokenizers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One pipeline of each kind."""
    place = tmp_path_factory.mktemp("kinds")
    files = {kind: published.write(place / f"{kind}.pth", published.tensors(kind)) for kind in KINDS}
    return {
        kind: convert("audioldm2", file, **published.told(kind), **tokenizers[kind]) for kind, file in files.items()
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write(tmp_path_factory.mktemp("base") / "audioldm2-full.pth", published.tensors())


def converting(tmp_path: Path, state: dict[str, Tensor], **overrides: Any) -> Any:
    """Converts a `.safetensors` file, which is read faster."""
    save_file(state, tmp_path / "published.safetensors")
    return convert("audioldm2", tmp_path / "published.safetensors", **overrides)


class TestAudioLDM2(ConversionPromises):
    model_type = "audioldm2"
    tensors = staticmethod(published.tensors)
    write = staticmethod(published.write)
    damaged = ("model.diffusion_model.out.0.weight", "conv_norm_out.weight")

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, told: dict[str, Any]) -> dict[str, Any]:
        return told

    def test_the_folder_loads_and_holds_the_converted_weights(
        self, source: Path, converted: Path, overrides: dict[str, Any]
    ):
        loaded = AudioLDM2Pipeline.from_pretrained(converted)
        same(states(loaded), states(convert("audioldm2", source, **overrides)))
        loaded.set_progress_bar_config(disable=True)
        made: Any = loaded("rain", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).audios
        assert made.shape == (1, tiny.SAMPLES)
        assert 0.01 < abs(made).max() <= 1
        for path in converted.rglob("*.json"):
            assert str(source.parents[1]) not in path.read_text(encoding="utf-8"), f"{path} holds a path"

    def test_safetensors_of_the_same_keys_give_the_same_weights(
        self, tmp_path: Path, source: Path, overrides: dict[str, Any]
    ):
        save_file(self.tensors(), tmp_path / "same.safetensors")
        expected = convert("audioldm2", source, **overrides)
        same(states(convert("audioldm2", tmp_path / "same.safetensors", **overrides)), states(expected))

    @pytest.mark.slow  # folders are written in one place for all systems, whose tests are fast ones
    def test_killed_conversions_leave_a_whole_folder_or_none(
        self, tmp_path: Path, source: Path, converted: Path, overrides: dict[str, Any]
    ):
        super().test_killed_conversions_leave_a_whole_folder_or_none(tmp_path, source, converted, overrides)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_each_part_makes_what_it_makes_in_the_original_layout(kind: str, pipes: dict[str, Any]):
    pipe, own = pipes[kind], published.modules(kind)
    generator = torch.Generator().manual_seed(0)
    latents, step = torch.randn(2, 4, 8, 4, generator=generator), torch.tensor([3, 700])
    contexts = [torch.randn(2, 5, width, generator=generator) for width in published.CONTEXTS[kind] if width]
    film = torch.randn(2, 12, generator=generator) if kind == "48k" else None
    names = ("encoder_hidden_states", "encoder_hidden_states_1")
    given = {"encoder_hidden_states": None, **dict(zip(names, contexts, strict=False))}
    made = pipe.unet(latents, step, class_labels=film, **given).sample
    assert_same(made, own["unet"](latents, step, contexts, film), **SUMS)
    mel = torch.randn(2, 1, 16, 8, generator=generator)
    moments = own["vae"].quant_conv(own["vae"].encoder(mel))  # type: ignore[operator]
    assert_same(pipe.vae.encode(mel).latent_dist.parameters, moments, **SUMS)
    decoded = own["vae"].decoder(own["vae"].post_quant_conv(latents))  # type: ignore[operator]
    assert_same(pipe.vae.decode(latents).sample, decoded, **SUMS)
    waveform = own["vocoder"](mel[:, 0].transpose(1, 2))[:, 0]
    assert_same(pipe.vocoder(mel[:, 0]), waveform, **SUMS)
    assert waveform.std() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_come_from_the_shapes_and_heads_are_32_wide(kind: str, pipes: dict[str, Any]):
    config = pipes[kind].unet.config
    assert config.attention_head_dim == list(published.MULTIPLES[kind])
    assert config.cross_attention_dim == [[None, *published.CONTEXTS[kind]]] * len(published.MULTIPLES[kind])
    assert config.transformer_layers_per_block == (2 if kind == "large" else 1)
    assert config.down_block_types[:2] == ["DownBlock2D", "CrossAttnDownBlock2D"]
    assert config.class_embed_type == ("simple_projection" if kind == "48k" else None)
    assert pipes[kind].vae.config.scaling_factor == pytest.approx(published.SCALE_FACTOR)
    scheduler = pipes[kind].scheduler
    assert (scheduler.config.beta_start, scheduler.config.beta_end) == (0.0015, 0.0195)
    torch.testing.assert_close(scheduler.betas, published.betas(), atol=1e-7, rtol=0)
    if kind != "48k":
        assert pipes[kind].language_model.config.max_new_tokens == (512 if kind == "speech" else 8)
        assert pipes[kind].tokenizer_2.model_max_length == (tiny.PHONEMES if kind == "speech" else 48)


@pytest.mark.parametrize("kind", KINDS)
def test_what_listens_to_words_keeps_its_weights(kind: str, pipes: dict[str, Any]):
    pipe, expected = pipes[kind], published.components(kind == "speech")
    if kind == "48k":
        found = pipe.text_encoder.state_dict()
        whole = expected["text_encoder"].state_dict()
        same(found, {name: tensor for name, tensor in whole.items() if name in found})
        assert "text_projection.linear2.weight" in found
        return
    for name in ("text_encoder", "language_model"):
        same(getattr(pipe, name).state_dict(), expected[name].state_dict())
    second = expected["text_encoder_2"]
    if kind == "speech":
        same(pipe.text_encoder_2.text_encoder.state_dict(), second.text_encoder.state_dict())
    else:
        same(pipe.text_encoder_2.state_dict(), second.state_dict())
    same(pipe.audio_mae.state_dict(), tiny.tiny_audio_mae().state_dict())
    source, projection = published.tensors(kind), pipe.projection_model.state_dict()
    for name, row in (("", 0), ("_1", 1)):
        for mark, ours in (("start", "sos"), ("end", "eos")):
            rows = source[f"{published.COND}{mark}_of_sequence_tokens.weight"]
            assert torch.equal(projection[f"{ours}_embed{name}"], rows[row])
        linear = expected["projection_model"].state_dict()[f"projection{name}.weight"]
        assert torch.equal(projection[f"projection{name}.weight"], linear)
    assert ("learnable_positional_embedding" in projection) == (kind == "speech")


def test_speech_is_spoken(pipes: dict[str, Any]):
    pipes["speech"].set_progress_bar_config(disable=True)
    made = pipes["speech"]("a voice", transcription="hello", num_inference_steps=1, max_new_tokens=4).audios
    assert made.shape == (1, tiny.SAMPLES)


@pytest.mark.slow
def test_the_48_khz_kind_becomes_a_folder_diffusers_loads(tmp_path: Path, tokenizers: dict[str, dict[str, Any]]):
    source = published.write(tmp_path / "audioldm_48k.pth", published.tensors("48k"))
    convert("audioldm2", source, tmp_path / "out", licence="MIT", **published.told("48k"), **tokenizers["48k"])
    pipe = diffusers.AudioLDMPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("rain", num_inference_steps=1, audio_length_in_s=0.05).audios.shape == (1, 800)
    source = published.write(tmp_path / "audioldm_16k_crossattn_t5.pth", published.tensors("t5"))
    with pytest.raises(ConversionError, match="hears T5 alone, for which there is no pipeline"):
        convert("audioldm2", source, **published.told("48k"), **tokenizers["t5"])


@pytest.mark.slow
def test_the_command_line_converts_there_and_back(
    tmp_path: Path, tokenizers: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    source = tmp_path / "haoheliu" / "audioldm2-full.pth"
    source.parent.mkdir()
    published.write(source, published.tensors())
    settings = {**published.told(), **tokenizers["base"]}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    folder, file = tmp_path / "folder", tmp_path / "back.safetensors"
    licence = ["--licence", "CC-BY-NC-SA-4.0"]
    assert main(["convert", "audioldm2", str(source.parent), str(folder), *flags, *licence]) == 0
    pipe = AudioLDM2Pipeline.from_pretrained(folder)
    parameters = sum(part.num_parameters() for part in pipe.components.values() if hasattr(part, "num_parameters"))
    assert f"AudioLDM2Pipeline, {parameters:,} parameters" in capsys.readouterr().out
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-nc-sa-4.0\npipeline_tag: text-to-audio\ntags:\n- audio-generation\n- audioldm2\n" in card
    assert main(["convert", "audioldm2", str(folder), str(file), *licence]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.safetensors", "folder", "haoheliu"]
    same(states(convert("audioldm2", file, **settings)), states(pipe))
    with pytest.raises(ConversionError, match="in diffusers' layout already"):
        convert("audioldm2", folder, tmp_path / "again", licence="CC-BY-NC-SA-4.0")


def test_a_model_of_other_parts_has_no_way_back_and_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tmp_path / "tiny"
    shutil.copytree(SHIPPED["audioldm2-tiny"], tiny)
    weights = tiny / "vae" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    command = ["convert", "audioldm2", str(tiny), "--licence", "CC-BY-4.0"]
    assert main([*command[:3], str(tmp_path / "back.safetensors"), *command[3:]]) == 1
    assert "the vocoder is a GriffinLimVocoder" in capsys.readouterr().err
    assert main([*command[:3], str(weights), *command[3:], "--overwrite"]) == 2
    assert "is part of" in " ".join(capsys.readouterr().err.split())
    assert weights.read_bytes() == before
    assert not (tmp_path / "back.safetensors").exists()


@pytest.mark.parametrize("kind", ["base", "large", "speech"])
def test_the_way_back_gives_the_authors_names_and_weights(kind: str, pipes: dict[str, Any]):
    from hubsep.conversion.audioldm2.back import original_tensors

    source, found = published.tensors(kind), original_tensors(pipes[kind])
    missing = {name for name in source if name not in found}
    # what a converted model does not hold
    dropped = (
        "transform",
        "logmel_extractor",
        "tscam_conv",
        "attn_mask",
        "decoder_embed",
        "mask_token",
        "position_ids",
    )
    rest = {"alphas_cumprod", "posterior_mean_coef1", "logvar", f"{published.COND}model.h.0.attn.bias"}
    assert {name for name in missing if not any(part in name for part in dropped)} == rest
    assert found.keys() <= source.keys()
    for name, tensor in found.items():
        used = slice(0, 2) if name.endswith("_of_sequence_tokens.weight") else slice(None)
        expected = source[name][used] if tensor.dim() else source[name]
        torch.testing.assert_close(tensor[used] if tensor.dim() else tensor, expected, atol=1e-9, rtol=1e-6)
        assert tensor.shape == source[name].shape


def test_averaged_weights_are_taken_when_asked_for(told: dict[str, Any]):
    state = {**published.tensors(), **published.averaged()}
    plain = split(state).unet
    same(plain, split(published.tensors()).unet)
    same(split(state, ema=True).unet, {name: tensor + 1 for name, tensor in plain.items()})
    with pytest.raises(ConversionError, match="no averaged weights"):
        split(published.tensors(), ema=True)
    with pytest.raises(ConversionError, match="ema must be true or false"):
        convert("audioldm2", Path("absent"), **told, ema="yes")


def test_copies_must_agree():
    state, name = published.tensors(), "text_branch.embeddings.word_embeddings.weight"
    words, ranking = (f"{place}model.{name}" for place in (f"{published.COND}cond_stage_models.0.", "clap."))
    state[ranking] = state[ranking] + 1
    with pytest.raises(ConversionError, match=r"CLAP twice.*word_embeddings.*set clap=conditioning or clap=ranking"):
        split(state)
    for wanted, expected in (("conditioning", words), ("ranking", ranking)):
        assert torch.equal(split(state, clap=wanted).clap[name], state[expected])
    state = published.tensors()
    state["cond_stage_models.1.model.shared.weight"] += 1
    with pytest.raises(ConversionError, match=r"T5 twice, with different 'shared\.weight'"):
        split(state)
    state = published.tensors()
    state["cond_stage_models.5.model.wte.weight"] = torch.ones(2, 2)
    with pytest.raises(ConversionError, match="gpt2 2 times"):
        split(state)


def without(prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in published.tensors().items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: {**published.tensors(), "discriminator.weight": torch.ones(2)}, "know: 'discriminator.weight'"),
        (lambda: without("model.diffusion_model."), "missing all of its unet"),
        (lambda: without("model.diffusion_model.input_blocks.1.0"), "no model|levels|missing"),
        (lambda: without("betas"), "missing 'betas'"),
        (lambda: {**published.tensors(), "betas": torch.linspace(0.001, 0.02, 100)}, "not evenly spaced"),
        (lambda: {**published.tensors(), "scale_factor": torch.zeros(())}, "scale_factor is 0.0"),
        (lambda: without("first_stage_model.encoder.down.0.block.0.conv2"), r"vae: .*missing.*resnets\.0\.conv2"),
        (
            lambda: without("first_stage_model.vocoder.ups.1"),
            r"upsample_rates are \[5, 4\], but the source has 1 steps",
        ),
        (lambda: without(f"{published.COND}model.h.1.ln_1.bias"), r"language_model: .*missing: 'h\.1\.ln_1\.bias'"),
        (lambda: without(f"{published.COND}input_sequence_embed_linear.1.bias"), "projection_model: .*projection_1"),
        (lambda: without(f"{published.COND}cond_stage_models.2.audiomae.model.norm.bias"), "missing: 'norm.bias'"),
    ],
)
def test_what_is_missing_or_unknown_is_named(state: Any, message: str, tmp_path: Path, told: dict[str, Any]):
    with pytest.raises(ConversionError, match=message):
        converting(tmp_path, state(), **told)


@pytest.mark.slow
def test_t5_can_come_from_a_folder(tmp_path: Path, told: dict[str, Any], pipes: dict[str, Any]):
    state = {
        name: tensor
        for name, tensor in published.tensors().items()
        if not name.startswith((f"{published.COND}cond_stage_models.1.", "cond_stage_models.1."))
    }
    with pytest.raises(ConversionError, match="holds no T5; set text_encoder_2="):
        converting(tmp_path, state, **told)
    with pytest.raises(ConversionError, match=r"text_encoder_2: '.*nowhe.* could not be had"):
        converting(tmp_path, state, **told, text_encoder_2=str(tmp_path / "nowhere"))
    published.components(False)["text_encoder_2"].save_pretrained(tmp_path / "t5")
    pipe = converting(tmp_path, state, **told, text_encoder_2=str(tmp_path / "t5"))
    assert isinstance(pipe.text_encoder_2, T5EncoderModel)
    same(pipe.text_encoder_2.state_dict(), pipes["base"].text_encoder_2.state_dict())
    weights = load_file(tmp_path / "t5" / "model.safetensors")
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, tmp_path / "t5" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"does not fit its config.json: 'encoder\.final_layer_norm\.weight'"):
        converting(tmp_path, state, **told, text_encoder_2=str(tmp_path / "t5"))
    with pytest.raises(ConversionError, match="holds its own text encoder"):
        converting(tmp_path, published.tensors(), **told, text_encoder_2=str(tmp_path / "t5"))


@pytest.mark.slow
def test_tokenizers_are_in_no_checkpoint(base: Path, tmp_path: Path, tokenizers: dict[str, dict[str, Any]]):
    words = {"tokenizer": tokenizers["speech"]["tokenizer"]}
    with pytest.raises(ConversionError, match=r"set tokenizer_2= to a folder that holds the VitsTokenizer"):
        converting(tmp_path, published.tensors("speech"), **published.told(), **words)
    with pytest.raises(ConversionError, match=r"nowhe.* could not be had.*set tokenizer="):
        convert("audioldm2", base, **published.told(), tokenizer=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"unet": {"no_such": 1}}, "unet has no 'no_such' to set"),
        ({"unet": {"layers_per_block": 5}}, "layers_per_block is 1 in the source; it cannot be 5"),
        ({"unet": 3}, "unet must be a table of configuration fields"),
        ({"vocoder": {"upsample_rates": [5, 4]}}, "no weight tells sampling_rate.*set vocoder="),
        ({"language_model": {}}, "no weight tells n_head.*set language_model="),
        ({"text_encoder": {"hidden_size": 3}}, "text_encoder takes tables text_config and audio_config"),
        ({"clap": "both"}, "clap must be conditioning or ranking"),
        ({"unet": {"attention_head_dim": [1, 2, 5]}}, "make no model|do not fit"),
    ],
)
def test_wrong_overrides_are_refused(overrides: dict[str, Any], message: str, base: Path, told: dict[str, Any]):
    with pytest.raises(ConversionError, match=message):
        convert("audioldm2", base, **{**told, **overrides})


def test_heads_of_other_widths_must_be_set():
    fields = {"block_out_channels": [16, 48], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}
    with pytest.raises(ConversionError, match=r"48 channels are no multiple of 32.*attention_head_dim"):
        original_heads(fields)
    assert original_heads({**fields, "down_block_types": ["DownBlock2D"] * 2}) == [1, 1]
    assert convert_scheduler(published.betas(), {"prediction_type": "v_prediction"}).config.prediction_type[0] == "v"


SIZES: list[Any] = [  # millions of parameters, as published
    ("base", {"contexts": (768, 1_024)}, 346.94),
    pytest.param("large", {"contexts": (768, 1_024, None), "depth": 2}, 718.0, marks=pytest.mark.slow),
    pytest.param("speech", {"contexts": (768,)}, 261.9, marks=pytest.mark.slow),
    ("48k", {"contexts": (None,), "film": 512, "latents": 16}, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fields", "millions"), SIZES, ids=["base", "large", "speech", "48k"])
def test_every_tensor_of_a_published_unet_has_its_place(kind: str, fields: dict[str, Any], millions: float):
    with torch.device("meta"):
        own = original.UNet(**{"latents": 8, "base": 128, "multiples": (1, 2, 3, 5), "layers": 2, **fields})
        state = published.under(UNET, own.state_dict())
        found = unet_fields(state)
        heads = original_heads(found)
        model = AudioLDM2UNet2DConditionModel(**found, attention_head_dim=heads)
    assert heads == [4, 8, 12, 20]
    assert found["cross_attention_dim"] == [[None, *fields["contexts"]]] * 4
    shapes(forward(state, unet_pairs(found), UNET), model)
    if millions:
        assert sum(part.numel() for part in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def shapes(state: dict[str, Tensor], model: torch.nn.Module) -> None:
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in model.state_dict().items()}


def test_every_tensor_of_the_published_first_stages_has_its_place():
    for channels, latents, millions in (((128, 256, 512), 8, 55.4), ((128, 256, 512, 1_024), 16, 0)):
        with torch.device("meta"):
            state = published.under(VAE, original.VAE(latents, channels, 2).state_dict())
            fields = vae_fields(state)
            model = diffusers.AutoencoderKL(**fields)
        pairs = vae_pairs(fields)
        shapes(forward(state, pairs, VAE, squeezed(fields, pairs)), model)
        if millions:
            assert sum(part.numel() for part in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    for bands, width, kernels, inner in ((64, 1_024, (16, 16, 8, 4, 4), (3, 7, 11)),
                                         (256, 1_536, (12, 10, 8, 4, 4), (3, 7, 11, 15))):  # fmt: skip
        with torch.device("meta"):
            state = published.under(
                VOCODER, original.Vocoder(bands, width, RATES[kernels], kernels, inner).state_dict()
            )
            fields = vocoder_fields(state)
            fields |= {"upsample_rates": RATES[kernels], "resblock_dilation_sizes": [[1, 3, 5]] * len(inner)}
            vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**fields))
        unused = {"mean": torch.empty(bands), "scale": torch.empty(bands)}
        shapes({**forward(state, vocoder_pairs(fields), VOCODER), **unused}, vocoder)
        if bands == 64:
            assert sum(part.numel() for part in vocoder.parameters()) / 1e6 == pytest.approx(55.3, abs=0.05)


@pytest.mark.needs_shared
@torch.no_grad()
def test_audiomae_from_inside_makes_what_the_original_makes(shared: Path):
    folder = shared / "golden" / "audioldm2" / "audiomae_encoder"
    golden = load_file(folder / "io.safetensors")
    model = audiomae.convert_encoder(load_file(folder / "weights.safetensors"), {"num_attention_heads": 4})
    made = model.loa(golden["fbank"], 8, 8)
    assert_same(made, golden["loa_t8_f8"], terms=512, layers=12 * 6)  # patches; twelve layers of six sums
