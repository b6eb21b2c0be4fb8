"""README and docs: the targets of their links exist, and their commands are valid."""

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

import mnist_lit
from mnist_lit import cli, compose
from mnist_lit.config.check import parse
from tests.conftest import PROJECT, needs_compiler

PAGES = sorted(
    path for folder in (".", "docs", "research") for path in PROJECT.glob(f"{folder}/*.md")
)
README = (PROJECT / "README.md").read_text(encoding="utf-8")
# Programs that the extra `test` does not install.
OTHERS = ("pre-commit", "onnx2tf", "npm", "srun", "mkdocs")
EXTRAS = set(metadata("mnist-lit").get_all("Provides-Extra") or ())
EXTEND = PROJECT / "docs/extend.md"  # test_extend.py runs all of it


def name(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual forges make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lists_are_read_alike_by_forges_and_the_site(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    # A block of an item is indented by 4 spaces and ends with a blank line; so does a paragraph
    # before a list.
    for unlike in (r"\n\n {1,3}\S.*", r"\n {4}.*\n(-|\d+\.) .*", r"\n[^\s-].*\n- .*"):
        found = re.search(unlike, text)
        assert found is None, f"{name(page)}: {found.group()}"


def test_the_reference_has_all_that_is_exported() -> None:
    text = (PROJECT / "docs/api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+)`", text.partition(".")[0])) == {"mnist_lit", *dir(mnist_lit)}
    assert set(re.findall(r"::: mnist_lit\.(\w+)\n", text)) == {"errors", *dir(mnist_lit)}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of the `sh` blocks of a page, as words."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for command in " ".join(map(shlex.quote, words)).split(" '&&' "):
                found = shlex.split(command)
                while found and (re.fullmatch(r"[A-Z_]+=.*", found[0]) or found[0] == "time"):
                    del found[0]
                if found and found[0] != "export":
                    yield found


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.stem in ("configure", "search")))
        for page in PAGES
        if page != EXTEND
    ],
    ids=name,
)
def test_commands_can_be_meant(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for program, *arguments in commands(page.read_text(encoding="utf-8")):
        if program == "mnist-lit" and arguments[0] != "train":
            if not {"--help", "--version"} & set(arguments):
                cli.read(arguments)
        elif program == "mnist-lit" or arguments[:1] == ["train.py"]:
            compose_all(arguments[1:])
        elif program == "python" and arguments[0] != "-m":
            assert (PROJECT / arguments[0]).is_file(), arguments
            if not arguments[0].startswith("research/"):
                module = import_module(Path(arguments[0]).stem)
                module.command_line().parse_intermixed_args(arguments[1:])
        elif program == "pip":
            for extra in re.findall(r"\.\[(.*?)\]", arguments[-1]):
                assert set(extra.split(",")) <= EXTRAS, extra
        else:
            here = program in (".", "eval", *OTHERS) or (PROJECT / program).is_file()
            # An environment can be used without being activated.
            places = [str(Path(sys.executable).parent), os.environ["PATH"]]
            assert here or shutil.which(program, path=os.pathsep.join(places)), program
        for path in arguments:
            if path.startswith("tests/"):
                assert (PROJECT / path.partition("::")[0]).exists(), path


def compose_all(arguments: list[str]) -> None:
    """Compose and check the config of a command, or of each job of a sweep."""
    # Launchers of other packages need not be installed.
    left_out = ("-", "hydra/launcher=", "hydra.launcher.")
    words = [word for word in arguments if not word.startswith(left_out)]
    if "--cfg" in arguments:
        words.remove("job")
    jobs = [words]
    if {"-m", "--multirun"} & set(arguments):
        overrides = OverridesParser.create().parse_overrides(words)
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    elif any(word.startswith("hparams_search=") for word in words):
        overrides = OverridesParser.create().parse_overrides(words)
        jobs = [[str(one.input_line) for one in overrides if not one.is_sweep_override()]]
    seen: set[str] = set()
    for job in jobs:
        # Only combinations with a choice that no earlier one has, and only the first number of
        # each key.
        kinds = {re.sub(r"=[-+.\de]+$", "=", word) for word in job}
        if not kinds <= seen or not job:
            composed(*job)
        seen |= kinds


@cache
def composed(*words: str) -> None:
    """Compose and check a config, only once if several pages have it."""
    parse(compose(*words, "run_dir=unused"))


def test_the_table_of_results_is_that_of_the_measured_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    accuracy = import_module("accuracy")
    table = accuracy.table(accuracy.load_results(accuracy.RESULTS))
    assert len(table.splitlines()) == 12
    assert table in (PROJECT / "docs/results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("picture", sorted(PROJECT.glob("docs/pictures/*.png")), ids=name)
def test_a_picture_is_of_the_files_that_are_here(picture: Path) -> None:
    with Image.open(picture) as made:
        sources = json.loads(made.info["Made-from"])
    for path, digest in sources.items():
        found = hashlib.sha256((PROJECT / path).read_bytes()).hexdigest()
        assert found == digest, f"{path} has changed: python research/pictures.py {picture.stem}"


@needs_compiler
def test_the_short_commands_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(PROJECT / "docs")
    monkeypatch.setattr(sys, "path", list(sys.path))
    done = []
    for program, *arguments in commands(README):
        if program == "mnist-lit" and arguments[0] in ("predict", "evaluate", "export"):
            cli.main(arguments)
            done.append(capsys.readouterr().out)
    assert "number.png  31415" in done[0]
    assert "Accuracy: 9,960 of 10,000 (99.60%)" in done[1]
    assert "9,904 of 10,000" in done[2]


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for block in blocks:
        if "…" not in block:
            found: dict[str, object] = {}
            exec(block, found)
            assert "digits" in found


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000


def test_the_map_of_the_design_page_names_every_file() -> None:
    source, room, named = PROJECT / "src/mnist_lit", "", set()
    page = (PROJECT / "docs/design.md").read_text(encoding="utf-8")
    for line in page.partition("## Layers")[0].splitlines():
        words = re.findall(r"`(.*?)`", line.partition(": ")[0])
        if line.startswith("- "):
            named |= {room + word for word in words if not word.endswith("/")}
        elif line.endswith("/`:"):
            (room,) = words
    there = {path.relative_to(source).as_posix() for path in source.rglob("*.*") if path.is_file()}
    unlisted = re.compile(r".*(__init__\.py|py\.typed|\.pyc|\.ckpt)")
    assert named == {path for path in there if not unlisted.fullmatch(path)}


def test_the_readme_lists_the_choices_that_there_are() -> None:
    for group, choices in re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE):
        if (PROJECT / "conf" / group).is_dir():
            files = {file.stem for file in (PROJECT / "conf" / group).glob("*.yaml")}
            assert set(re.findall(r"`([\w-]+)`", choices)) == files, group
