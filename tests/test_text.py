"""Hostile texts in all output about a network, a run or a sweep."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml

from mnist_lit import MNIST, Facts, MNISTDataModule
from mnist_lit.checkpoints import pretrained
from mnist_lit.checkpoints.read import Trained, read_file
from mnist_lit.checkpoints.write import packed
from mnist_lit.cli import main, read
from mnist_lit.config.lines import errors_as_lines
from mnist_lit.data.batches import Images
from mnist_lit.errors import ConfigError, unknown
from mnist_lit.evaluation.evaluate import evaluate
from mnist_lit.evaluation.page import Subject, render
from mnist_lit.export import arduino, c
from mnist_lit.export.source import Source
from mnist_lit.network.compact import CompactCNN
from mnist_lit.sweeps import results
from mnist_lit.sweeps.job import Job
from mnist_lit.text import LONGEST, LONGEST_LINE, for_c, for_link, for_terminal, show
from mnist_lit.training import rundir
from mnist_lit.training.console import say
from tests.conftest import needs_compiler

# Ends a comment, and runs when the library is loaded.
CODE = (
    "__attribute__((constructor)) static void boo(void)"
    '{ extern int system(const char *); system("touch ran"); }'
)
HOSTILE = [
    f"*/ {CODE} /*",
    f"*?/ *??/ {CODE}",  # removing one of them must not create the other
    f"// {CODE} \\",
    f"??/ {CODE} ??/??/",
    "/* // /*/ **/ *//*",
    "*" * 199 + "/ over the end",
    "</script><script>ran = 1</script>",
    '<img src=x onerror="ran = 1">',
    "<!--<script>ran = 1//",
    "]]>--></title></style><svg onload=ran=1>",
    "' onmouseover='ran = 1",
    '"; ran = 1; //',
    "`${ran = 1}`",
    "{{ 7 * 7 }}{% raw %}",
    "$\\foo$ \\input{x} $$",
    "=cmd|' /C calc'!A1",
    "javascript:ran=1",
    "data:text/html,<script>ran=1</script>",
    "https:ran",
    "\u202egnp.\u202c \u2066x\u2069 \u061c",
    "two\u2028lines\u2029here",
    "\ufeff\u200b\U000e0041",
    "%s %(x)s {0.__class__}",
    "手写数字",
    "أرقام \u200c مكتوبة",
    "x" * 1000,
]
# Facts refuse these, but a path, a message or an override may still have them.
CONTROL = [
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[1;1H",
    "\x9b31m",
    "a\r\nb",
    "over\rwritten\x08\x7f",
    "nul\0byte",
    "\ud800",
    "\udcff",
    "java\tscript:ran=1",
    "\x01javascript:ran=1",
    "y" * 1_000_000,
]
WORDS = HOSTILE + CONTROL


class Reader(HTMLParser):
    """Collects the tags, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        self.links += [v or "" for name, v in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def network() -> CompactCNN:
    torch.manual_seed(0)
    return CompactCNN([{"channels": 4}], classes=len(HOSTILE)).eval()


@pytest.fixture
def source(network: CompactCNN, mnist: MNISTDataModule) -> Source:
    return Source(
        network, named(HOSTILE[0]), 1, 1, calibration=lambda: mnist.train.images[:20], name="odd"
    )


def named(word: str) -> Facts:
    """Facts with only hostile texts."""
    first = HOSTILE.index(word)
    classes = (*HOSTILE[first:], *HOSTILE[:first])
    return replace(MNIST, name=word, classes=classes, protocol=word)


def harmless(line: str) -> bool:
    """Return whether a terminal shows it in order and does nothing else."""
    return all(one.isprintable() or one == "\u200c" for one in line)


def test_facts_hold_words_of_any_script_and_no_control_characters() -> None:
    for word in HOSTILE:
        assert named(word).name == word
    for word in CONTROL:
        with pytest.raises(ConfigError):
            replace(MNIST, name=word)


@needs_compiler
@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("form", ["c", "c-int8", "arduino"])
def test_a_checkpoint_that_is_exported_to_c_runs_nothing(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = dict(read_file(pretrained.checkpoint_of("pico")))
    whole["hyper_parameters"]["facts"] |= {"name": HOSTILE[0], "classes": HOSTILE[:10]}
    Path("theirs.ckpt").write_bytes(packed(whole))
    main(["export", "theirs.ckpt", "--to", form, "--output", f"odd.{form}"])
    assert Path(f"odd.{form}").is_file()
    assert not Path("ran").exists()


@needs_compiler
@pytest.mark.parametrize("int8", [False, True])
def test_no_word_gets_out_of_a_comment(int8: bool, source: Source, tmp_path: Path) -> None:
    comments, rest = [], set()
    for word in WORDS:
        about = replace(source, facts=named(word if word in HOSTILE else HOSTILE[0]), file=word)
        comment, end, code = c.make(about, int8).decode("ascii").partition("*/")
        comments.append(comment + end)
        rest.add(code)
    assert len(rest) == 1
    program = tmp_path / "program.c"
    program.write_text("\n".join([*comments, "int main(void) { return 0; }"]))
    strict = ["-trigraphs", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    for compiler in ("gcc", "g++"):
        subprocess.run([compiler, *strict, "program.c", "-o", "program"], cwd=tmp_path, check=True)
        subprocess.run([tmp_path / "program"], cwd=tmp_path, check=True)
        symbols = subprocess.run(["nm", tmp_path / "program"], capture_output=True, text=True)
        assert "boo" not in symbols.stdout
    assert not (tmp_path / "ran").exists()


@needs_compiler
def test_no_word_gets_out_of_a_manifest(source: Source) -> None:
    import io
    import zipfile

    kept: dict[str, set[object]] = {}
    for word in HOSTILE:
        content = arduino.make(replace(source, facts=named(word)), True)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                text = archive.read(name).decode("ascii")
                known: object = len(text.splitlines())
                if name.endswith("json"):
                    known = tuple(json.loads(text))
                elif name.endswith("yml"):
                    known = tuple(yaml.safe_load(text))
                elif name.endswith("properties"):
                    known = tuple(line.partition("=")[0] for line in text.splitlines())
                elif not name.endswith("README.md"):
                    known = text.partition("*/")[2] if name.endswith(".h") else text
                kept.setdefault(name, set()).add(known)
    assert len(kept) == 12
    assert all(len(known) == 1 for known in kept.values())


def test_for_c_gives_a_line_that_neither_ends_nor_begins_a_comment() -> None:
    for word in (*WORDS, *(f"{word}\n{other}" for word in HOSTILE for other in HOSTILE)):
        line = for_c(word)
        assert re.fullmatch(r"[ -\[\]-~]*", line)
        assert not re.search(r"\*/|/\*|\?\?", line)
        assert len(line) <= 2 * LONGEST


def test_a_page_to_draw_on_holds_the_names_as_data(source: Source) -> None:
    web = pytest.importorskip("mnist_lit.export.web", reason="needs the extra `export`")
    for word in HOSTILE:
        facts = named(word)
        text = web.make(replace(source, facts=facts), False).decode()
        assert Reader(text).tags == Reader(web.make(source, False).decode()).tags
        assert text.count("</script>") == 2
    _, _, script = text.partition('<script id="network">')
    with web.racer.mini_racer() as engine:
        engine.eval(script.partition("</script>")[0])
        assert json.loads(engine.eval("JSON.stringify(CLASSES)")) == list(facts.classes)
        assert engine.eval("typeof ran") == "undefined"


def test_onnx_keeps_the_words_as_they_are(source: Source) -> None:
    onnx = pytest.importorskip("onnx")
    from mnist_lit.export.onnx import make

    for form in (False, True):
        model = onnx.load_from_string(make(source, form))
        kept = {one.key: one.value for one in model.metadata_props}
        assert kept["classes"] == " ".join(source.facts.classes)
        assert kept["task"].startswith(source.facts.name)


def test_a_report_has_no_tags_but_its_own(network: CompactCNN, mnist: MNISTDataModule) -> None:
    images = Images(mnist.test.images[:60], torch.arange(60) % len(HOSTILE))

    def made(name: str, facts: Facts) -> Reader:
        subject, said = Subject(name, Trained(network, facts)), evaluate(network, images, facts)
        both = render([subject] * 2, [said] * 2, [])
        return Reader(render([subject], [said], [{"mistakes": b""}]) + both)

    plain = made("x", replace(MNIST, classes=tuple(map(str, range(len(HOSTILE))))))
    for word in WORDS[:-1]:
        page = made(word, named(word) if word in HOSTILE else named(HOSTILE[0]))
        assert page.tags == plain.tags
        assert page.names == plain.names
        assert page.links == plain.links
        assert {*HOSTILE} <= {*page.words}


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, list[Job]]:
    """Failed jobs whose folders, overrides and errors are hostile."""
    jobs = []
    for number, word in enumerate(HOSTILE[:-1] + CONTROL[:5]):
        folder = tmp_path / word[:60].replace("/", "∕")
        config = {"optimized_metric": "test_accuracy"}
        jobs.append(Job(folder, number, [f"model.name={word}"], config, word))
        jobs[-1].write()
        (folder / rundir.ERROR).write_text(json.dumps(word))
    return tmp_path, jobs


def test_a_sweep_links_to_its_own_folders_alone(sweep: tuple[Path, list[Job]]) -> None:
    folder, jobs = sweep
    results.write(folder)
    page = Reader((folder / "results.html").read_bytes().decode())
    assert len(page.links) == len(jobs)
    for link, one in zip(page.links, jobs, strict=True):
        assert re.fullmatch(r"[\w.~%/-]+", link, flags=re.ASCII)
        assert one.error in page.words
    assert page.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr"),
        *("th", "td", "a", "code", "div"),
    }


def test_for_link_gives_no_scheme_but_those_of_the_web() -> None:
    for word in WORDS:
        assert re.fullmatch(r"[\w.~%/-]*", for_link(word), flags=re.ASCII)
    for word in ("JavaScript:ran=1", "vbscript:x", "//elsewhere", " https://x", "file:///etc"):
        assert ":" not in for_link(word)
    assert for_link("https://example.org/a?b=c#d") == "https://example.org/a?b=c#d"
    assert for_link("optimizer.lr=0.1,seed=0") == "optimizer.lr%3D0.1%2Cseed%3D0"


def said_by_a_command(word: str) -> None:
    with pytest.raises(SystemExit):
        read(["evaluate", "nano", f"--{word}".replace("\ud800", "").replace("\udcff", "")])


def said_as_an_error(word: str) -> None:
    with pytest.raises(SystemExit) as stop, errors_as_lines():
        raise ConfigError(unknown(word, ["optimizer", "data"]))
    line = str(stop.value)
    print(line)
    assert line.endswith("no such key; allowed here: optimizer, data")
    assert len(line) <= 3 * LONGEST + 60


@pytest.mark.parametrize(
    "writer", [show, say, said_by_a_command, said_as_an_error], ids=lambda one: one.__name__
)
def test_a_terminal_gets_printable_lines_that_end(
    writer: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for word in WORDS:
        writer(f"model {word}")
        said = capsys.readouterr()
        for line in (said.out + said.err).split("\n"):
            assert harmless(line), ascii(line)
            assert len(line) <= 3 * LONGEST_LINE


def test_a_text_keeps_its_lines_and_a_long_line_its_end() -> None:
    assert for_terminal("a" * 300 + "remedy").endswith("aremedy")
    assert len(for_terminal("手" * 300)) == LONGEST
    assert for_terminal("手写 أرقام é 🙂") == "手写 أرقام é 🙂"


def test_the_lines_of_a_sweep_are_printable(
    sweep: tuple[Path, list[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    show(results.write(sweep[0]))
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) >= len(sweep[1])
    assert all(map(harmless, lines))


def test_evaluate_says_the_name_of_the_data_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = dict(read_file(pretrained.checkpoint_of("pico")))
    whole["hyper_parameters"]["facts"] |= {"name": "\u202e" + "n" * 999}
    (tmp_path / "theirs.ckpt").write_bytes(packed(whole))
    main(["evaluate", str(tmp_path / "theirs.ckpt")])
    line = capsys.readouterr().out.splitlines()[0].removeprefix(str(tmp_path))
    assert "\\u202en" in line
    assert harmless(line)
    assert len(line) < LONGEST + 60
