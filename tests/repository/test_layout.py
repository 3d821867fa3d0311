# SPDX-License-Identifier: Apache-2.0
"""The shape of the repository: sizes of files and functions, the links, what importing costs, what a wheel holds."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from imports import LEVELS, MODULES, ROOT, SOURCES, imported, in_functions, outside, package_of, untyped

import hubsep
import hubsep.conversion
import hubsep.pipelines


TEXTS = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".in", ".csv", ""}
# what a function may import: dear, or not on every machine
DEAR = set(
    "accelerate av diffusers fcntl huggingface_hub matplotlib peft pyarrow ray resource safetensors scipy soundfile "
    "tokenizers torch torchaudio tqdm transformers yaml".split()
)
MAX_FILE, MAX_MODELING, MAX_FUNCTION = 400, 700, 40


def run_python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sources_are_found() -> None:
    assert ROOT / "src/hubsep/registry.py" in SOURCES


def offenders(faults: Callable[[Path], Iterable[str]]) -> list[str]:
    """What is wrong in each file, as `file: fault`: one test for all files, which names every one of them."""
    return [f"{path.relative_to(ROOT).as_posix()}: {fault}" for path in SOURCES for fault in faults(path)]


def test_size() -> None:
    assert not offenders(too_long)


def too_long(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines, most = len(text.splitlines()), MAX_MODELING if path.name.startswith("modeling_") else MAX_FILE
    if lines > most:
        yield f"{lines} lines, {most} allowed"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and body_lines(node) > MAX_FUNCTION:
            yield f"{node.name} has {body_lines(node)} lines, {MAX_FUNCTION} allowed"


def body_lines(function: ast.FunctionDef) -> int:
    """Lines from `def` to the end without the docstring: explaining more must not make a function too long."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_packages_look_down() -> None:
    """No package imports one above it, not even inside a function or for a type."""
    upward = [
        f"{module} imports {target}"
        for module in MODULES
        for target in imported(module)
        if package_of(module) in LEVELS and LEVELS[package_of(module)] < LEVELS.get(package_of(target), -1)
    ]
    assert not upward
    assert {package_of(module) for module in MODULES} - {"", "__main__"} == set(LEVELS)


def test_no_circle_of_imports() -> None:
    """Modules can be put in an order in which each imports only those before it."""
    waiting = {module: set(imported(module)) - {module, "hubsep"} for module in MODULES}
    while ready := {module for module, targets in waiting.items() if not targets & waiting.keys()}:
        waiting = {module: targets for module, targets in waiting.items() if module not in ready}
    assert not waiting, f"these import each other: {', '.join(sorted(waiting))}"


def test_an_import_in_a_function_saves_something() -> None:
    """One of hubsep brings a package that its module does without; one of others is dear, or not on every machine."""
    idle = [
        f"{module}, line {line}: {target}"
        for module in MODULES
        for line, target in in_functions(module)
        if not (outside(target) - outside(module) if target in MODULES else target.partition(".")[0] in DEAR)
    ]
    assert not idle, "import at the top:\n" + "\n".join(idle)


def test_the_recipe_of_separation_is_numbered_and_short() -> None:
    """A call, and the two functions it goes on in: steps in order, each at most a screen."""
    text = (ROOT / "pipelines/separation/pipeline.py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    steps: list[int] = []
    for name in ("__call__", "_run", "_through"):
        node = functions[name]  # of the overloads of a call, the last
        lines = text.splitlines()[node.body[1].lineno - 2 : node.end_lineno]
        assert len(lines) <= MAX_FUNCTION, name
        numbers = [int(number) for line in lines for number in re.findall(r"# (\d+)\. [A-Z]", line)]
        assert numbers == sorted(numbers), name
        steps += numbers
    assert sorted(steps) == list(range(1, 12)), steps
    assert {"check", "collect", "preprocess", "postprocess"} <= functions.keys()


def test_what_a_separation_holds_has_a_type() -> None:
    """No attribute of a class is of any type: an editor knows what each step takes and gives."""
    files = [*(ROOT / "pipelines/separation").glob("*.py"), ROOT / "pipelines/base.py"]
    assert len(files) > 10
    assert not [line for path in files for line in untyped(path)]


def test_few_things_stand_directly_in_the_package() -> None:
    entries = [path.name for path in (ROOT / "src/hubsep").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 32, sorted(entries)


def test_header() -> None:
    assert not offenders(headless)


def headless(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return
    if not text.startswith("# SPDX-License-Identifier: Apache-2.0\n"):
        yield "the first line is not the licence"
    if not ast.get_docstring(ast.parse(text)):
        yield "no docstring: a module starts with the decisions it took"


def test_documented_arguments_exist() -> None:
    """A name in the `Args:` part of a docstring is a parameter, or a field of the class."""
    assert not offenders(documented_in_vain)


def documented_in_vain(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        section = re.search(r"^Args:\n((?:    .*\n|\n)+)", (ast.get_docstring(node) or "") + "\n", re.MULTILINE)
        documented = set(re.findall(r"^    `?\*{0,2}(\w+)`?:", section[1], re.MULTILINE)) if section else set()
        if documented - names_of(node):
            yield f"{node.name} documents {documented - names_of(node)}"


def names_of(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        return {argument.arg for argument in every if argument is not None}
    annotated = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
    fields = {target.id for target in annotated if isinstance(target, ast.Name)}
    initialisers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return fields.union(*(names_of(item) for item in initialisers))


@pytest.mark.parametrize("name", ["pipelines", "conversion"])
def test_links_are_relative_and_lead_to_the_code(name: str) -> None:
    link = ROOT / "src" / "hubsep" / name
    assert os.readlink(link) == f"../../{name}"
    assert (link / "__init__.py").samefile(ROOT / name / "__init__.py")


def test_top_level_folders_are_not_imported_by_themselves() -> None:
    assert hubsep.pipelines.__name__ == "hubsep.pipelines"
    assert "pipelines" not in sys.modules
    assert "conversion" not in sys.modules


IMPORTED = 'import sys\ndef modules(): return {name.partition(".")[0] for name in sys.modules}\n'


def test_importing_hubsep_brings_nothing_that_costs() -> None:
    light = set(run_python(f"{IMPORTED}start = modules(); import hubsep; print(*modules() - start)").split())
    assert "hubsep" in light
    assert not {"torch", "numpy", "transformers", "diffusers", "scipy", "soundfile"} & light


@pytest.mark.slow
def test_the_pipeline_brings_nothing_transformers_does_not_need() -> None:
    code = f"{IMPORTED}from transformers import pipeline; theirs = modules()"
    heavy = set(run_python(f"{code}; from hubsep import pipeline; print(*modules() - theirs)").split())
    assert "hubsep" in heavy
    assert not {"matplotlib", "librosa", "diffusers", "typer", "peft", "av", "sklearn", "torchmetrics"} & heavy


def test_the_command_line_answers_without_pytorch() -> None:
    code = "import sys, hubsep.cli; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert run_python(code).split() == ["False", "False"]


def test_public_names_exist_and_are_listed_once() -> None:
    for name in hubsep.__all__:
        assert getattr(hubsep, name) is not None
    assert set(hubsep.__all__) <= set(dir(hubsep))
    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(hubsep, name)


@pytest.mark.slow
def test_a_configuration_may_be_the_first_thing_that_is_imported() -> None:
    """transformers' own imports come back to the tables of configurations while it is half there."""
    assert run_python("import hubsep; print(hubsep.AudioSepConfig().model_type)").strip() == "audiosep"


ORDERS = [
    "import hubsep; from transformers import AutoConfig, AutoProcessor, pipeline",
    "from transformers import AutoConfig, AutoProcessor, pipeline; import hubsep",
    "import hubsep.models.audiosep.configuration_audiosep",
    "import hubsep.models.audiosep.modeling_audiosep",
    "import hubsep.models.audiosep.processing_audiosep",
    "import hubsep.auto",
    "import hubsep.hub",
    "import hubsep.pipelines",
]


@pytest.mark.slow
def test_transformers_knows_the_systems_in_any_order_of_imports() -> None:
    """Each order in a process of its own, forked from one that has imported what costs most: 3.0 s become 1.2 s."""
    code = """import os, sys, accelerate, scipy.signal, torch._dynamo, torchaudio
for order in sys.argv[1:]:
    process = os.fork()
    if process:
        assert os.waitpid(process, 0)[1] == 0, order
        continue
    exec(order)
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import processor_class_from_name
    from transformers.pipelines import PIPELINE_REGISTRY
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
    from hubsep import AudioSeparationPipeline, AudioSepConfig, AudioSepProcessor
    for mapping in (MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING, TOKENIZER_MAPPING):
        assert type(AutoConfig.for_model("audioldm2")) in mapping
    assert type(AutoConfig.for_model("audiosep")) is AudioSepConfig
    assert processor_class_from_name("AudioSepProcessor").from_pretrained.__self__ is AudioSepProcessor
    task = PIPELINE_REGISTRY.check_task("audio-separation")[1]
    assert task["impl"].preprocess is AudioSeparationPipeline.preprocess
    os._exit(0)
print("known")"""
    assert run_python(code, *ORDERS).strip() == "known"


def test_no_path_of_a_machine_and_no_pickle() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    if not files:
        pytest.skip("not a git checkout")
    path_of_a_machine = re.compile(r"/(?:tmp|work|root|home|farm|Users)/[\w.-]+")
    for file in files:
        assert file.suffix not in {".pkl", ".pt", ".pth", ".ckpt", ".bin"}
        if file.suffix in TEXTS and file.is_file() and not file.is_symlink():
            found = path_of_a_machine.search(file.read_text(encoding="utf-8"))
            assert found is None, f"{file.relative_to(ROOT)} holds {found and found[0]}"


@pytest.mark.slow
def test_wheel_holds_both_folders_and_the_data(tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # a copy: building leaves files beside the sources
    for folder in ("src", "pipelines", "conversion"):
        shutil.copytree(
            ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / file, tree)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", tmp_path, tree], check=True)
    (wheel,) = tmp_path.glob("hubsep-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"hubsep/{path.relative_to(ROOT).as_posix()}" for path in SOURCES if ROOT / "src" not in path.parents}
    expected |= {path.relative_to(ROOT / "src").as_posix() for path in SOURCES if ROOT / "src" in path.parents}
    data = [*(ROOT / "src/hubsep/checkpoints").rglob("*.*"), *(ROOT / "src/hubsep/data").glob("*.json")]
    expected |= {path.relative_to(ROOT / "src").as_posix() for path in data}
    expected |= {
        f"hubsep/training/recipes/{path.name}" for path in (ROOT / "src/hubsep/training/recipes").glob("*.yaml")
    }
    assert expected | {"hubsep/py.typed"} <= names
    assert not {name for name in names if not name.startswith(("hubsep/", "hubsep-"))}
