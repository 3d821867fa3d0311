# SPDX-License-Identifier: Apache-2.0
"""What a user mistypes: a type checker finds a mistake in every line that ends with a comment, and in no other."""

from __future__ import annotations

import numpy as np

import hubsep
from hubsep import AudioLDM2Pipeline


pipe = hubsep.pipeline("audio-separation", model="conv-tasnet-small")
maker = hubsep.pipeline("text-to-audio")
sound = AudioLDM2Pipeline.from_pretrained("folder")

hubsep.pipline("audio-separation")  # pipeline
hubsep.pipeline("audio-seperation")  # separation
hubsep.pipeline("audio-separation", modle="conv-tasnet-small")  # model
hubsep.pipeline("audio-separation", batchsize=2)  # batch_size
pipe("song.wav", querys="rain")  # queries
pipe("song.wav", residual="yes")  # a bool
pipe("song.wav", on_short="ignore")  # raise or warn
pipe("song.wav", segment_s="4")  # a number
pipe(3)  # a recording
pipe("song.wav")[0]["lable"]  # label
pipe("song.wav")[0]["path"]  # of files only
pipe("song.wav")["label"]  # a list
pipe("song.wav")[0]["label"] + 1  # a text
pipe(["song.wav"])[0]["label"]  # a list of lists
pipe.stream("song.wav", queery="rain")  # queries
next(pipe.stream("song.wav"))[0]["score"]  # known at the end only
pipe.separate_file("song.wav")  # output
pipe.separate_file("song.wav", "stems", clip="rescale")  # raise or clamp
pipe.separate_file("song.wav", "stems", templete="{label}.wav")  # template
pipe.separate_file("song.wav", "stems")[0]["audio"]  # path
hubsep.read_audio("song.wav", samplingrate=8_000)  # sampling_rate
hubsep.read_audio("song.wav").samples  # waveform
hubsep.write_audio("song.wav", np.zeros((1, 9), np.float32))  # sampling_rate
hubsep.write_audio("song.wav", np.zeros((1, 9), np.float32), 8_000, sub_type="PCM_16")  # subtype
hubsep.open_audio("song.wav").block()  # blocks
hubsep.convert("conv-tasnet", "file")  # conv_tasnet
sound("rain", steps=3)  # num_inference_steps
sound("rain", guidance_scale="much")  # a number
sound("rain", output_type="numpy")  # np
sound("rain", return_dict=False).audios  # a tuple
sound.vary("rain.wav", strenght=0.5)  # strength
AudioLDM2Pipeline.from_pretrained("folder", attention_heads="old")  # config or original
maker("rain", num_steps=3)  # num_inference_steps
maker("rain")["sample_rate"]  # sampling_rate
hubsep.CheckpointErorr  # CheckpointError
