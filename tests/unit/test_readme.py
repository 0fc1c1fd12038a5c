"""README and docs are true: their commands, options, links and tables are those of kbuild."""

import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import kbuild
from kbuild.base.errors import KbuildError
from tests.bench import Figure, row
from tests.support.commands import commands

ROOT = Path(__file__).parents[2]
CHINESE = ROOT / "README.zh.md"
DOCS = (ROOT / "README.md", CHINESE, *sorted((ROOT / "docs").glob("*.md")))
PAGES = (*DOCS, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md")
README = DOCS[0].read_text()
REFERENCE = (ROOT / "docs/reference.md").read_text()
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
OPTION = re.compile(r"--[a-z][a-z0-9-]*")
OF_OTHER_PROGRAMS = {
    "--bootstrap-kubeconfig",  # of kubelet
    "--cluster-signing-duration",  # of kube-controller-manager
    "--enable-bootstrap-token-auth",  # of kube-apiserver
}


def session_commands(text: str) -> list[str]:
    """Return what is typed at a prompt in the code blocks of a page, without comments."""
    typed = [line for block in FENCE.findall(text) for line in PROMPT.findall(block)]
    return [re.sub(r" +#.*", "", line.replace("\\\n", " ")) for line in typed]


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " "))


def prose(text: str) -> str:
    return re.sub(r"`[^`]*`", "", FENCE.sub("", text))


TYPED = sorted({(page, line) for page in DOCS for line in session_commands(page.read_text())})
KBUILD = [
    line[line.index("kbuild ") :] for _, line in TYPED if re.match(r"(\w+=\S+ )*kbuild ", line)
]
SPANS = sorted({span for page in PAGES for span in code_spans(page.read_text())})


def skeleton(text: str) -> tuple[list[str], list[str], list[str], set[str]]:
    """Return what a translation keeps: heading levels, blocks without comments, spans and links."""
    blocks = [re.sub(r" +# .*", "", block) for block in FENCE.findall(text)]
    headings = re.findall(r"^#+ ", FENCE.sub("", text), re.MULTILINE)
    links = set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", CHINESE.name}
    return headings, blocks, sorted(code_spans(text)), links


def test_the_chinese_readme_keeps_step_with_the_english_one() -> None:
    chinese = CHINESE.read_text()
    assert skeleton(chinese) == skeleton(README)
    assert len(re.findall(r"[\u4e00-\u9fff]", prose(chinese))) > 500
    assert f"]({CHINESE.name})" in README
    assert "](README.md)" in chinese


def options_of(command: Any) -> set[str]:
    return {name for one in command.params for name in one.opts if name.startswith("--")}


def parse(line: str) -> None:
    """Parse a command line as kbuild does, without running it; raises a usage error."""
    path, *words = shlex.split(line)
    while words and f"{path} {words[0]}" in commands():
        path = f"{path} {words.pop(0)}"
    command = commands()[path]
    context = command.make_context(path, [*words])
    if hasattr(command, "commands") and words:
        command.resolve_command(context, words)


def section(heading: str) -> str:
    """Return the text below a heading of the reference, up to the next heading."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", REFERENCE, re.MULTILINE | re.DOTALL
    )
    assert found is not None, heading
    return found[1]


def table(heading: str) -> list[list[str]]:
    """Return the cells of a table of the reference, without its header."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text()))
    return [target for target in targets if not target.startswith("https://")]


def dead_links(page: Path) -> list[str]:
    dead = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            dead.append(f"{page.name}: {target}")
    return dead


def test_the_first_two_commands_are_the_main_job_and_the_tests() -> None:
    assert session_commands(README)[:2] == ["make demo", "make test"]
    assert "kbuild kubeadm --version v1.23.0 --ca-years 100 --leaf-years 100" in KBUILD


def test_the_readme_fits_on_a_screen() -> None:
    assert 60 <= len(README.splitlines()) <= 90


def test_one_line_says_what_to_install() -> None:
    """As .ci/fresh reads it."""
    [packages] = re.findall(r".*`apt-get install (git [^`]*)`.*", README)
    assert {"git", "make", "python3", "python3-venv"} <= set(packages.split())


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    typed = [line for _, line in TYPED if line.startswith("make ")]
    named = [span for span in SPANS if re.match(r"make [a-z0-9]", span) and "WHAT=" not in span]
    assert typed
    assert named
    for command in (*typed, *named):
        assert re.search(rf"^{command.split()[1]}:.* ## ", makefile, re.MULTILINE), command


@pytest.mark.slow
@pytest.mark.parametrize("line", sorted(set(KBUILD)))
def test_every_command_line_is_understood(line: str) -> None:
    parse(line.partition(" | ")[0])


def test_a_command_line_that_is_wrong_is_found() -> None:
    for line in ("kbuild chek dist", "kbuild check dist --nope", "kbuild sign", "kbuild pins up 1"):
        with pytest.raises(Exception, match=r"[Nn]o such|Missing"):
            parse(line)


@pytest.mark.parametrize("span", [span for span in SPANS if span.startswith("kbuild ")])
def test_every_command_in_a_sentence_exists(span: str) -> None:
    path, *words = span.split()
    while words and f"{path} {words[0]}" in commands():
        path = f"{path} {words.pop(0)}"
    is_placeholder = bool(words) and words[0] in ("COMMAND", "…")
    assert path != "kbuild" or not words or is_placeholder or words[0].startswith("--")
    assert set(OPTION.findall(" ".join(words))) <= {*options_of(commands()[path]), "--help"}


def test_every_option_in_a_sentence_exists() -> None:
    known = {"--help", *OF_OTHER_PROGRAMS}.union(*map(options_of, commands().values()))
    named = {OPTION.match(span) for span in SPANS} - {None}
    assert {found[0] for found in named if found} - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page, of `code`\n\n[a](#a-page-of-code) [b](#b) [c](c.md) [d](page.md#d)\n"
    )
    assert dead_links(page) == ["page.md: #b", "page.md: c.md", "page.md: page.md#d"]


def test_the_readme_leads_to_every_page() -> None:
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(DOCS[0])}
    assert set(PAGES) - {DOCS[0]} <= linked


@pytest.mark.parametrize("path", sorted(set(commands()) - {"kbuild"}))
def test_the_reference_has_every_option_of_a_command(path: str) -> None:
    text = section(path)
    common = text.partition("Common options:")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `--")]
    told = OPTION.findall(" ".join([*cells, common]))
    assert len(told) == len(set(told))
    assert set(told) == options_of(commands()[path]) - {"--help"}


def test_the_reference_has_every_command() -> None:
    told = re.findall(r"^### (kbuild .+)$", REFERENCE, re.MULTILINE)
    assert sorted(told) == sorted(set(commands()) - {"kbuild"})


def test_every_common_option_is_explained() -> None:
    explained = set(OPTION.findall(" ".join(row[0] for row in table("Common options"))))
    lists = re.findall(r"^Common options: (.+?)\n\n", REFERENCE, re.MULTILINE | re.DOTALL)
    named = set(OPTION.findall(" ".join(lists)))
    assert named == explained


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_name_in_an_example_of_a_settings_file_is_an_option(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for path, name in settings_in(tomllib.loads(block), "kbuild"):
            asked = [one for where, one in commands().items() if (where + " ").startswith(path)]
            assert any(f"--{name}" in options_of(command) for command in asked), (path, name)


def settings_in(entries: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from settings_in(value, f"{path} {name}")
        else:
            yield f"{path} ", name


def test_the_figures_are_those_of_the_last_bench() -> None:
    latest = json.loads((ROOT / "bench/latest.json").read_text())
    names_of = [field.name for field in fields(Figure)]
    figures = [Figure(**{name: one[name] for name in names_of}) for one in latest["figures"]]
    assert "\n".join(row(figure) for figure in figures) in REFERENCE
    assert f"{latest['machine']}; {latest['date']}" in REFERENCE
    past = [figure.what for figure in figures if not figure.is_good]
    assert all(one["is_good"] is (one["what"] not in past) for one in latest["figures"])


@cache
def kinds() -> dict[str, int]:
    """Return the exit code of each kind of error that any module of kbuild defines."""
    for module in pkgutil.walk_packages(kbuild.__path__, "kbuild."):
        import_module(module.name)
    todo, found = [KbuildError], {}
    while todo:
        one = todo.pop()
        todo += one.__subclasses__()
        if one.__module__.startswith("kbuild.") and "what" in vars(one):
            found[kebab(one.__name__)] = one.exit_code
    return found


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def test_every_kind_of_error_is_in_its_table() -> None:
    told = {kind.strip(" `"): int(code) for kind, code, _ in table("Kinds of errors")}
    assert told == kinds()


def test_every_exit_code_is_in_its_table() -> None:
    told = {int(code) for code, _, _ in table("Exit codes")}
    assert told - {0, 141} == set(kinds().values())


def test_every_kind_in_a_sentence_exists() -> None:
    named = re.findall(
        r"error[^.]{0,30}? (?:\()?`([a-z]+(?:-[a-z]+)+)`", " ".join(map(prose_of, DOCS))
    )
    assert len(named) > 5
    assert set(named) <= {*kinds()}


def prose_of(page: Path) -> str:
    return FENCE.sub("", page.read_text()).replace("\n", " ")
