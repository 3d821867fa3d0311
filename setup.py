# SPDX-License-Identifier: Apache-2.0
"""Builds hubsep from two places: `src/` and the two folders users look for first, `pipelines/` and `conversion/`.

The mapping makes wheels complete; the links `src/hubsep/{pipelines,conversion}` make editable installs, type checkers
and `PYTHONPATH=src` see the same files. An editable install leaves the mapping out: then setuptools writes the path of
`src` to a file that type checkers read, and not code that finds mapped folders, which they do not run.
Floors are the oldest releases without a known hole or with an interface used here, ceilings the next major release;
`constraints.txt` holds the set that was tested.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup


FOLDERS = {"hubsep.pipelines": "pipelines", "hubsep.conversion": "conversion"}
packages = find_packages("src", exclude=[pattern for name in FOLDERS for pattern in (name, f"{name}.*")])
linked = all((Path(__file__).parent / "src" / name.replace(".", "/")).is_dir() for name in FOLDERS)
places = {"": "src"} if linked and "editable_wheel" in sys.argv else {"": "src", **FOLDERS}
for name, folder in FOLDERS.items():
    packages += [name, *(f"{name}.{child}" for child in find_packages(folder))]

extras = {
    "conversion": [],  # the core reads every layout so far; the name is kept for those that will need more
    "train": ["peft>=0.21", "scipy>=1.15"],
    "eval": ["mir_eval>=0.8", "scipy>=1.15", "torchmetrics>=1.9"],
    "video": ["av>=16"],
    "ray": ["ray[data]>=2.60,<3"],
    "demo": ["gradio>=6.16,<7"],  # below 6.16: GHSA-j36p-7w88-g82j, files outside; below 6.6: CVE-2026-28416
}
runners = ["hypothesis>=6.150", "pytest>=9", "pytest-timeout>=2.4", "pytest-xdist>=3.8", "setuptools>=80"]
extras["test"] = [*extras["eval"], *extras["video"], *extras["train"], *runners]
extras["dev"] = [*extras["test"], *extras["demo"], "mypy>=2.4", "ruff==0.17.5", "selenium>=4.40", "torchao>=0.16"]

setup(
    name="hubsep",
    version="0.1.0",
    description="Audio separation and text-to-audio on the Hugging Face Hub",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir=places,
    packages=packages,
    package_data={
        "hubsep": ["py.typed", "checkpoints/**", "data/*.json", "demo/*.css", "hub/*.yaml", "training/recipes/*.yaml"]
    },
    entry_points={"console_scripts": ["hubsep = hubsep.cli:main"]},
    install_requires=[
        "accelerate>=1.15,<2",
        "diffusers>=0.38,<0.43",  # below: CVE-2026-44513; each release may move what the pipeline is built on
        "huggingface_hub>=1.33,<3",
        "matplotlib>=3.9",  # `--plot` is part of the first command a reader runs, so it has no extra of its own
        "numpy>=2",
        "PyYAML>=6",
        "safetensors>=0.8",  # below: a killed save leaves a broken file
        "soundfile>=0.13",
        "soxr>=1",
        "torch>=2.11,<2.15",
        "torchaudio>=2.11",
        "tqdm>=4.66",
        "transformers>=5.17,<6",
        "typer>=0.20",
        "typing_extensions>=4.12",
    ],
    extras_require=extras,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Typing :: Typed",
    ],
)
