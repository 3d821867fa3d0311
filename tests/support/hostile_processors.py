# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the small files beside a model's weights: each case changes a good folder of a text-queried
model, or of an AudioLDM 2, and names what the refusal must say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_folders import Attack, extra


Case = tuple[Attack, str]
EVIL = "open({canary!r}, 'w')\nclass Evil: pass\n"
CODE = '{"auto_map": {"AutoProcessor": "evil.Evil"}}'


def change(name: str, edit: Callable[[Any], object]) -> Attack:
    """Edit a JSON file in place; what `edit` returns, if anything, becomes the content."""

    def attack(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        returned = edit(content)
        (folder / name).write_text(json.dumps(content if returned is None else returned), encoding="utf-8")

    return attack


def replaced(name: str, content: Any) -> Attack:
    return extra(name, json.dumps(content))


def several(*attacks: Attack) -> Attack:
    def attack(folder: Path) -> None:
        for one in attacks:
            one(folder)

    return attack


def gone(*names: str) -> Attack:
    def attack(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return attack


def evil(folder: Path) -> None:
    """Code that leaves a file beside the folder when it runs."""
    (folder / "evil.py").write_text(EVIL.format(canary=str(folder.parent / "canary")))


def sound(**fields: Any) -> Attack:
    return change("processor_config.json", lambda content: content["feature_extractor"].update(fields))


def words(**fields: Any) -> Attack:
    return change("tokenizer_config.json", lambda content: content.update(fields))


def whole(**fields: Any) -> Attack:
    return change("tokenizer.json", lambda content: content.update(fields))


def model(**fields: Any) -> Attack:
    return change("tokenizer.json", lambda content: content["model"].update(fields))


REPLACEMENT = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}
PREPEND = {"type": "Prepend", "prepend": "x" * 64}


def sequence(kind: str, *parts: Any) -> dict[str, Any]:
    return {"type": "Sequence", kind: [*parts]}


def charsmap(mapped: bytes) -> str:
    """A table of SentencePiece whose trie is empty."""
    return base64.b64encode((8).to_bytes(4, "little") + bytes(8) + mapped).decode()


def token(**fields: Any) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 10, "content": "<new>", **plain, **fields}


def added(**fields: Any) -> Attack:
    return change("tokenizer.json", lambda content: content["added_tokens"].append(token(**fields)))


def more_tokens(content: dict[str, Any]) -> None:
    content["added_tokens"] += [token(id=9_000 + number, content=f"<{number}>") for number in range(40)]


def template(**fields: Any) -> Attack:
    return change("tokenizer.json", lambda content: content["post_processor"].update(fields))


def config(part: str, **fields: Any) -> Attack:
    return change("config.json", lambda content: content["query_config"][part].update(fields))


def nested(kind: str, field: str, depth: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": kind, field: []}
    for _ in range(depth):
        part = {"type": kind, field: [part]}
    return part


UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "unk_token": None}
BEYOND = "writes the id 10; the text encoder has a vocabulary of 10"
CHARSMAP = base64.b64encode((1 << 30).to_bytes(4, "little") + bytes(64)).decode()
PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 1,
    "pad_type_id": 0,
    "pad_token": "<pad>",
}
TRUNCATION = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}

CODES: dict[str, Case] = {
    "the video processor's file": (
        several(evil, replaced("processor_config.json", {}), extra("video_preprocessor_config.json", CODE)),
        "video_preprocessor_config.json.* no such file|processor_config.json' has no field 'processor_class'",
    ),
    "the video processor's file alone": (
        several(evil, gone("processor_config.json"), extra("video_preprocessor_config.json", CODE)),
        "video_preprocessor_config.json' would make loading",
    ),
    "an extractor's file": (
        several(evil, gone("processor_config.json"), extra("preprocessor_config.json", CODE)),
        "preprocessor_config.json' sets auto_map",
    ),
    "a tokenizer's file": (
        several(evil, words(auto_map={"AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]})),
        "tokenizer_config.json' sets auto_map",
    ),
    "the model's file": (
        several(evil, change("config.json", lambda c: c.update(auto_map={"AutoProcessor": "evil.Evil"}))),
        "config.json' sets auto_map|has no field 'auto_map'",
    ),
    "an audio tokenizer's file": (
        replaced(
            "audio_tokenizer_config.json",
            {"audio_tokenizer_name_or_path": "../outside", "audio_tokenizer_class": "DacModel"},
        ),
        "audio_tokenizer_config.json' would make loading",
    ),
    "an audio tokenizer in the processor": (
        change(
            "processor_config.json",
            lambda c: c.update(
                audio_tokenizer={"audio_tokenizer_name_or_path": "../outside", "audio_tokenizer_class": "DacModel"}
            ),
        ),
        "processor_config.json' sets audio_tokenizer",
    ),
    "an image processor": (
        replaced("preprocessor_config.json", {"image_processor_type": "ViTImageProcessor", "size": 2**30}),
        "image_processor_type', which is not known",
    ),
    "a second extractor in the processor": (
        change("processor_config.json", lambda c: c.update(image_processor={"image_processor_type": "Evil"})),
        "'image_processor', which is not known",
    ),
    "another processor": (
        change("processor_config.json", lambda c: c.update(processor_class="WhisperProcessor")),
        "processor_class is 'WhisperProcessor'; accepted are AudioSepProcessor",
    ),
    "another processor in the tokenizer": (
        words(processor_class="BarkProcessor"),
        "processor_class is 'BarkProcessor'",
    ),
    "another extractor": (sound(feature_extractor_type="DacFeatureExtractor"), "feature_extractor_type is 'Dac"),
    "another tokenizer": (words(tokenizer_class="MistralCommonBackend"), "tokenizer_class is 'MistralCommon"),
    "a tokenizer that is a list": (words(tokenizer_class=["RobertaTokenizer"]), "tokenizer_class is .'Roberta"),
    "a tokenizer's file elsewhere": (words(tokenizer_file="/etc/passwd"), "tokenizer_file is '/etc/passwd'"),
    "a vocabulary elsewhere": (words(vocab_file="../outside/vocab.json"), "vocab_file is '../outside"),
    "another release's tokenizer": (words(fast_tokenizer_files=["tokenizer.5.0.0.json"]), "fast_tokenizer_files"),
    "a GGUF file": (words(gguf_file="../outside.gguf"), "gguf_file"),
    "a chat template in the tokenizer": (words(chat_template="{{ 7 * 7 }}"), "chat_template', which is not known"),
    "arguments for the tokenizer": (words(init_inputs=["/etc/passwd"]), "init_inputs has 1 entries"),
    "settings of SentencePiece": (words(sp_model_kwargs={"model_file": "/etc/passwd"}), "sp_model_kwargs"),
    "unknown field of the tokenizer": (words(whatever=1), "'whatever', which is not known"),
    "unknown field of the extractor": (sound(whatever=1), "'whatever', which is not known"),
    "a template in its own file": (extra("chat_template.jinja", "{{ x }}"), "chat_template.jinja' would make"),
    "a template in the old file": (replaced("chat_template.json", {"chat_template": ""}), "chat_template.json' would"),
    "more templates": (extra("additional_chat_templates/a.jinja", "{{ x }}"), "additional_chat_templates"),
    "Mistral's vocabulary": (replaced("tekken.json", {}), "tekken.json' would make loading"),
    "SentencePiece under another name": (extra("tokenizer.model", b"\x08"), "tokenizer.model' would make loading"),
    "a list of modules": (replaced("modular_model_index.json", {}), "modular_model_index.json' would"),
    "quantization": (replaced("quantize_config.json", {}), "quantize_config.json' would make loading"),
    "JSON that nobody knows": (replaced("notes.json", {}), "notes.json' is no file that belongs to a model"),
    "JSON in capitals": (replaced("Video_Preprocessor_Config.JSON", {}), "JSON' is no file that belongs"),
    "no ending": (extra("whatever", b"x"), "whatever' is no file that belongs to a model"),
    "an ending that nobody knows": (extra("model.xyz", b"x"), "model.xyz' is no file that belongs"),
    "generation by a place": (
        replaced("generation_config.json", {"custom_generate": "../x"}),
        "custom_generate' must",
    ),
}

SOUNDS: dict[str, Case] = {
    "window of 2^40": (sound(fft_window_size=2**40), "fft_window_size is 1099511627776, outside .* 16 to 16384"),
    "window of 0": (sound(fft_window_size=0), "fft_window_size is 0, outside"),
    "window negative": (sound(fft_window_size=-256), "fft_window_size is -256, outside"),
    "window as text": (sound(fft_window_size="256"), "fft_window_size must be a whole number"),
    "window a fraction": (sound(fft_window_size=256.5), "fft_window_size must be a whole number"),
    "window true": (sound(fft_window_size=True), "fft_window_size must be a whole number"),
    "window null": (sound(fft_window_size=None), "fft_window_size must be a whole number"),
    "window a list": (sound(fft_window_size=[256]), "fft_window_size must be a whole number"),
    "window of 12001 bits": (
        sound(fft_window_size=1 << 12_000),
        "fft_window_size is a whole number of",
    ),
    "hop of 0": (sound(hop_length=0), "hop_length is 0, outside"),
    "hop negative": (sound(hop_length=-80), "hop_length is -80, outside"),
    "hop of 2^40": (sound(hop_length=2**40), "hop_length is 1099511627776, outside"),
    "hop of 1": (
        sound(hop_length=1, max_length_s=100, nb_max_samples=800_000, fft_window_size=256),
        "max_length_s x sampling_rate / hop_length x bins is",
    ),
    "2^40 seconds": (sound(max_length_s=2**40), "max_length_s is 1099511627776, outside"),
    "0 seconds": (sound(max_length_s=0), "max_length_s is 0, outside"),
    "half a second": (sound(max_length_s=0.5), "max_length_s must be a whole number"),
    "seconds as text": (sound(max_length_s="1"), "max_length_s must be a whole number"),
    "more than the tower takes": (sound(max_length_s=60, nb_max_samples=480_000), "frames of max_length_s is 6000"),
    "samples that do not follow": (sound(nb_max_samples=2**27), "nb_max_samples is 134217728; by the other fields"),
    "no mel bins": (sound(feature_size=0), "feature_size is 0, outside"),
    "10^9 mel bins": (sound(feature_size=10**9), "feature_size is 1000000000, outside"),
    "other mel bins": (sound(feature_size=32), "feature_size is 32; the audio tower takes its 16 mel bins"),
    "rate of 0": (sound(sampling_rate=0), "sampling_rate is 0, outside"),
    "rate of 2^40": (sound(sampling_rate=2**40), "sampling_rate is 1099511627776, outside"),
    "frequencies that fall": (sound(frequency_min=4_000, frequency_max=100), "must rise"),
    "frequencies above the rate": (sound(frequency_max=50_000), "must rise, up to half of the sampling_rate"),
    "frequency NaN": (sound(frequency_min=float("nan")), "frequency_min is nan"),
    "padding by a name": (sound(padding="elsewhere"), "padding is 'elsewhere'; accepted are"),
    "truncation by a name": (sound(truncation="elsewhere"), "truncation is 'elsewhere'; accepted are"),
    "fusion without it": (sound(truncation="fusion"), "truncation is fusion; the audio tower takes rand_trunc"),
    "padding with text": (sound(padding_value="0"), "padding_value must be a number"),
    "padding with infinity": (sound(padding_value=float("inf")), "padding_value is inf"),
    "no decibels": (sound(top_db=0), "top_db is 0, outside"),
    "an empty processor": (replaced("processor_config.json", {}), "no field 'processor_class'"),
    "a processor that is a list": (replaced("processor_config.json", []), "list where an object"),
    "a processor that is null": (replaced("processor_config.json", None), "NoneType where an object"),
    "an extractor that is a list": (
        change("processor_config.json", lambda c: c.update(feature_extractor=[1])),
        "feature_extractor must be an object",
    ),
    "no extractor": (
        change("processor_config.json", lambda c: c.pop("feature_extractor") and None),
        "feature extractor of .* must be described in",
    ),
    "an extractor without a type": (
        change("processor_config.json", lambda c: c["feature_extractor"].pop("feature_extractor_type") and None),
        "feature extractor of .* is None",
    ),
}

WORDS: dict[str, Case] = {
    "no settings": (gone("tokenizer_config.json"), "no tokenizer_config.json"),
    "no vocabulary": (gone("tokenizer.json"), "has no vocabulary"),
    "settings that are empty": (extra("tokenizer_config.json", ""), "tokenizer_config.json' is not valid JSON"),
    "length of 0": (words(model_max_length=0), "model_max_length is 0, outside"),
    "length as text": (words(model_max_length="32"), "model_max_length must be a whole number"),
    "length NaN": (words(model_max_length=float("nan")), "model_max_length must be|model_max_length is nan"),
    "token a number": (words(pad_token=5), "pad_token must be text"),
    "token an object": (words(pad_token={"content": 5}), "pad_token must be text"),
    "token of 10^6 letters": (words(pad_token="x" * 10**6), "pad_token has 1000000 characters"),
    "token that is half a letter": (words(pad_token="\ud800"), "pad_token is .*not valid Unicode"),
    "token beyond the model": (
        words(extra_special_tokens=["dog", "cat"]),
        BEYOND,
    ),
    "named token beyond the model": (
        words(mask_token="<mask>"),
        BEYOND,
    ),
    "tokens a number": (words(extra_special_tokens=7), "extra_special_tokens must be a list"),
    "tokens by name": (words(extra_special_tokens={"image_token": "<image>"}), "extra_special_tokens"),
    "10^9 more ids": (words(extra_ids=10**9), "extra_ids is 1000000000, outside"),
    "decoder with a large id": (words(added_tokens_decoder={str(10**9): token()}), "added_tokens_decoder has the key"),
    "decoder with a name": (words(added_tokens_decoder={"x": {"content": "x"}}), "added_tokens_decoder has the key"),
    "decoder a list": (words(added_tokens_decoder=[]), "added_tokens_decoder must be an object"),
    "decoder without content": (
        words(added_tokens_decoder={"1": {}}),
        "added_tokens_decoder.1. has no field 'content'",
    ),
    "side by a name": (words(padding_side="middle"), "padding_side is 'middle'"),
    "inputs by a name": (words(model_input_names=["pixel_values"]), "model_input_names.0. is 'pixel_values'"),
    "special tokens by a name": (replaced("special_tokens_map.json", {"x": "y"}), "'x', which is not known"),
    "special token a list": (replaced("special_tokens_map.json", {"pad_token": [1]}), "pad_token must be text"),
    "added id beyond everything": (replaced("added_tokens.json", {"x": 2**62}), "the id of 'x' is"),
    "added id negative": (replaced("added_tokens.json", {"x": -1}), "the id of 'x' is -1"),
    "added id as text": (replaced("added_tokens.json", {"x": "1"}), "the id of 'x' must be a whole number"),
    "added list": (replaced("added_tokens.json", ["x"]), "list where an object"),
    "tokenizer empty": (replaced("tokenizer.json", {}), "tokenizer.json' has no field 'added_tokens'"),
    "tokenizer a list": (replaced("tokenizer.json", []), "list where an object"),
    "tokenizer cut short": (extra("tokenizer.json", '{"version": "1.0"'), "tokenizer.json' is not valid JSON"),
    "no model": (change("tokenizer.json", lambda c: c.pop("model") and None), "no field 'model'"),
    "model null": (whole(model=None), "model: type is None"),
    "model of another type": (model(type="Evil"), "model: type is 'Evil'"),
    "model with another field": (model(cache_capacity=2**62), "'cache_capacity', which is not known"),
    "empty vocabulary": (model(vocab={}), "vocab holds no token"),
    "vocabulary a list": (model(vocab=["a"]), "vocab must be an object"),
    "id negative": (model(vocab={"<unk>": -1}), "the id of '<unk>' is -1"),
    "id of 2^31": (model(vocab={"<unk>": 2**31}), "the id of '<unk>' is 2147483648"),
    "id of 2^70": (model(vocab={"<unk>": 2**70}), "the id of '<unk>' is"),
    "id as text": (model(vocab={"<unk>": "0"}), "the id of '<unk>' must be a whole number"),
    "one id twice": (model(vocab={"<unk>": 0, "a": 0}), "one id to two tokens"),
    "id beyond the model": (model(vocab={"<unk>": 3, "dog": 10}), "writes the id 10; .* ids go from 0 to 9"),
    "unknown token not there": (model(unk_token="<none>"), "unk_token is '<none>', which is not in"),
    "no unknown token": (model(unk_token=None), "unk_token must be text"),
    "added token beyond the model": (added(id=10), "the text encoder has a vocabulary of 10"),
    "added token of 2^62": (added(id=2**62), "id is 4611686018427387904, outside"),
    "added token without content": (added(content=None), "content must be text"),
    "added tokens an object": (whole(added_tokens={}), "added_tokens must be a list"),
    "padding to 2^62": (whole(padding={**PADDING, "strategy": {"Fixed": 2**62}}), "strategy is an object|Fixed"),
    "padding to a multiple of 0": (whole(padding={**PADDING, "pad_to_multiple_of": 0}), "pad_to_multiple_of is 0"),
    "padding with an id of 2^40": (whole(padding={**PADDING, "pad_id": 2**40}), "pad_id is"),
    "truncation to 0": (whole(truncation={**TRUNCATION, "max_length": 0}), "max_length is 0, outside"),
    "truncation with a stride": (whole(truncation={**TRUNCATION, "stride": 100}), "stride is 100"),
    "normalizer of another type": (whole(normalizer={"type": "Evil"}), "normalizer: type is 'Evil'"),
    "normalizer a list": (whole(normalizer=[]), "normalizer: type is None"),
    "normalizer nested": (whole(normalizer=nested("Sequence", "normalizers", 20)), "nested more than"),
    "expression that backtracks": (
        whole(normalizer={"type": "Replace", "pattern": {"Regex": "(.|.)+!"}, "content": ""}),
        "Regex is",
    ),
    "split that backtracks": (
        whole(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated", "invert": False}
        ),
        "Regex is",
    ),
    "replacement of 10^6 letters": (
        whole(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}),
        "content has 1000000 characters",
    ),
    "replacements of replacements": (
        whole(normalizer={"type": "Sequence", "normalizers": [REPLACEMENT] * 5}),
        "more than 256 times as long",
    ),
    "replacements in sequences": (
        whole(normalizer=sequence("normalizers", sequence("normalizers", REPLACEMENT), REPLACEMENT)),
        "more than 256 times as long",
    ),
    "replacements and forms": (
        whole(normalizer=sequence("normalizers", {**REPLACEMENT, "content": "\ufdfa" * 20}, {"type": "NFKC"})),
        "more than 256 times as long",
    ),
    "replacements when it decodes": (
        whole(decoder=sequence("decoders", REPLACEMENT, REPLACEMENT)),
        "decoder would make a text more than 256",
    ),
    "a replacement of nothing": (
        whole(normalizer={**REPLACEMENT, "pattern": {"String": ""}}),
        "its pattern is empty",
    ),
    "a split at nothing": (
        whole(pre_tokenizer={"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False}),
        "its pattern is empty",
    ),
    "beginnings of beginnings": (
        whole(normalizer=sequence("normalizers", *[sequence("normalizers", *[PREPEND] * 16)] * 16)),
        "has 256 steps",
    ),
    "beginnings that are replaced": (
        whole(normalizer=sequence("normalizers", PREPEND, PREPEND, {**REPLACEMENT, "content": "x" * 40})),
        "or 4096 bytes longer",
    ),
    "bytes of bytes": (
        whole(pre_tokenizer=sequence("pretokenizers", *[{"type": "ByteLevel", "add_prefix_space": True}] * 5)),
        "pre_tokenizer would make a text more than 256",
    ),
    "templates of templates": (
        change(
            "tokenizer.json",
            lambda c: c.update(
                post_processor=sequence("processors", *[sequence("processors", *[c["post_processor"]] * 16)] * 5)
            ),
        ),
        "has 80 steps",
    ),
    "charsmap of long texts": (
        whole(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"a\0" + b"b" * 65 + b"\0")}),
        "more than 64 bytes in place of a character",
    ),
    "charsmap that is replaced": (
        whole(
            normalizer=sequence(
                "normalizers",
                REPLACEMENT,
                {"type": "Precompiled", "precompiled_charsmap": charsmap(b"b" * 33 + b"\0")},
            )
        ),
        "more than 256 times as long",
    ),
    "a score beyond every float": (
        whole(model={"type": "Unigram", "vocab": [["a", 10**400]], "unk_id": 0}),
        "a token and a finite number",
    ),
    "replacement without content": (
        whole(normalizer={"type": "Replace", "pattern": {"String": "a"}}),
        "no field 'content'",
    ),
    "charsmap that lies": (
        whole(normalizer={"type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
        "68 bytes and says that 1073741824",
    ),
    "charsmap not text": (
        whole(normalizer={"type": "Precompiled", "precompiled_charsmap": "!"}),
        "not valid base64",
    ),
    "metaspace of two letters": (
        whole(pre_tokenizer={"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": True}),
        "replacement has 2 characters",
    ),
    "template with an id beyond": (
        template(special_tokens={t: {"id": t, "ids": [2**31], "tokens": [t]} for t in ("<s>", "</s>")}),
        "ids.0. is 2147483648, outside",
    ),
    "template beyond the model": (
        template(special_tokens={t: {"id": t, "ids": [4_000], "tokens": [t]} for t in ("<s>", "</s>")}),
        "writes the id 4000; the text encoder has a vocabulary of 10",
    ),
    "template without its token": (template(special_tokens={}), "'<s>' is not among its special_tokens"),
    "template without a text": (template(single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}]), "must hold A once"),
    "template of something else": (template(single=[{"Evil": {}}]), "'Evil', which is not known"),
    "processor without ids": (whole(post_processor={"type": "RobertaProcessing"}), "no field 'sep'"),
    "processor with an id as text": (
        whole(post_processor={"type": "BertProcessing", "sep": ["</s>", "2"], "cls": ["<s>", 0]}),
        "sep must be a whole number",
    ),
    "pieces that are empty": (whole(model={**UNIGRAM, "vocab": []}), "vocab must be a list of 1 to"),
    "pieces without a score": (whole(model={**UNIGRAM, "vocab": [["a"]]}), "an entry is a token and a finite number"),
    "piece with NaN": (whole(model={**UNIGRAM, "vocab": [["a", float("nan")]]}), "a token and a finite number"),
    "unknown piece beyond": (whole(model={**UNIGRAM, "unk_id": 2}), "unk_id is 2, outside the accepted range 0 to 1"),
    "merges of nothing": (whole(model={**BPE, "merges": ["a c"]}), "merges holds 'a c'"),
    "merges of three": (whole(model={**BPE, "merges": [["a", "b", "ab"]]}), "merges.0. (must be text|has 3)"),
    "dropout": (whole(model={**BPE, "dropout": 0.5}), "dropout is 0.5; accepted are None"),
    "words of 2^70 letters": (
        whole(model={"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "max_input_chars_per_word": 2**70}),
        "max_input_chars_per_word is",
    ),
}

SIZES: dict[str, Case] = {
    "segment of 2^31": (change("config.json", lambda c: c.update(segment_samples=2**31)), "segment_samples is"),
    "segment of 2^25": (
        change("config.json", lambda c: c.update(segment_samples=2**25, hop_length=1)),
        "segment_samples is 33554432: with these sizes a segment takes about",
    ),
    "spectrogram of 2^20": (config("audio_config", spec_size=2**20), "spec_size is 1048576, outside"),
    "window of 2^16": (config("audio_config", window_size=2**16), "window_size is 65536, outside"),
    "window of 0": (config("audio_config", window_size=0), "window_size is 0, outside"),
    "stride of 0": (config("audio_config", patch_stride=[0, 4]), "patch_stride.0. is 0"),
    "depth as text": (config("audio_config", depths="22"), "AudioSepConfig cannot be built.*depths"),
    "heads that are missing": (config("audio_config", num_attention_heads=[2]), "depths are .* num_attention_heads"),
    "vocabulary of 2^40": (config("text_config", vocab_size=2**40), "vocab_size is 1099511627776, outside"),
    "positions of 2^30": (config("text_config", max_position_embeddings=2**30), "max_position_embeddings is"),
    "an activation elsewhere": (config("text_config", hidden_act="os.system"), "hidden_act is 'os.system'"),
    "names that are a number": (change("config.json", lambda c: c.update(known_sounds=5)), "known_sounds must be"),
}

GENERATORS: dict[str, Case] = {
    "JSON that nobody knows": (replaced("unet/notes.json", {}), "unet/notes.json' is no file that belongs"),
    "an audio tokenizer": (replaced("tokenizer/audio_tokenizer_config.json", {}), "would make loading"),
    "code in the tokenizer": (
        change("tokenizer/tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": ["evil.Evil", None]})),
        "tokenizer/tokenizer_config.json' sets auto_map",
    ),
    "a video processor": (replaced("feature_extractor/video_preprocessor_config.json", {}), "would make loading"),
    "another extractor": (
        replaced("feature_extractor/preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"}),
        "feature_extractor_type is 'Whisper",
    ),
    "window of 2^40": (
        change("feature_extractor/preprocessor_config.json", lambda c: c.update(fft_window_size=2**40)),
        "fft_window_size is 1099511627776, outside",
    ),
    "no vocabulary": (gone("tokenizer/tokenizer.json"), "tokenizer.* has no vocabulary"),
    "a tokenizer beyond its encoder": (
        change("tokenizer/tokenizer.json", more_tokens),
        "the text encoder has a vocabulary of 40",
    ),
    "a second tokenizer beyond its encoder": (
        change("tokenizer_2/tokenizer.json", more_tokens),
        "the text encoder has a vocabulary of 40",
    ),
    "merges that are missing": (
        change("tokenizer/tokenizer.json", lambda c: c["model"].update(merges=["x yz"])),
        "merges holds 'x yz'",
    ),
    "a template": (extra("tokenizer_2/chat_template.jinja", "{{ x }}"), "chat_template.jinja' would make loading"),
    "a cut vocabulary": (extra("tokenizer_2/tokenizer.json", "{"), "tokenizer_2/tokenizer.json' is not valid JSON"),
}

GROUPS = {"code": CODES, "sound": SOUNDS, "words": WORDS, "sizes": SIZES}
QUERIED: dict[str, Case] = {
    f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()
}
OF_PROCESSORS = {name: case for name, case in QUERIED.items() if not name.startswith("sizes")}
OF_CODE = {name: case for name, case in QUERIED.items() if name.startswith("code")}
# the ways to load a folder, and the cases that each is tried with
WAYS = {"queried": QUERIED, "plain": OF_CODE, "processor": OF_PROCESSORS, "generator": GENERATORS}
