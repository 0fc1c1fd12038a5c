"""SECURITY.md names an existing test for each claim, and quotes README and docs correctly."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text()
README = (ROOT / "README.md").read_text()
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
QUOTABLE = " ".join(" ".join(page.read_text().split()) for page in PAGES)
HEADER = "| claim | tests |\n| --- | --- |\n"
TABLE = re.compile(re.escape(HEADER) + r"((?:\|.*\n)+)")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")

SECTIONS = (
    "Report a vulnerability",
    "Who is trusted with what",
    "Which command runs foreign code",
    "Out of scope",
    "Claims and their tests",
)


def rows(text: str) -> list[tuple[str, str]]:
    """Return each claim in the tables, with its cell of tests."""
    lines = [line for table in TABLE.findall(text) for line in table.splitlines()]
    cells = [line.strip("|").rsplit("|", 1) for line in lines]
    return [(claim.strip(), tests.strip()) for claim, tests in cells]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the functions in a file, without importing it."""
    if not (ROOT / path).is_file():
        return frozenset()
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def problems(text: str) -> list[str]:
    """Return each claim without a test, each missing test, and each misquotation."""
    found = []
    for claim, tests in rows(text):
        if re.sub(r"[\s,]", "", NAMED.sub("", tests)) or not NAMED.search(tests):
            found.append(f"{claim}: no test, or other text")
        found += [
            f"{claim}: {path} has no {name}"
            for path, name in NAMED.findall(tests)
            if name not in names_in(path)
        ]
        if claim.startswith('"') and claim.strip('"') not in QUOTABLE:
            found.append(f"{claim}: no page says so")
    return found


def test_each_security_claim_names_a_test_that_exists() -> None:
    assert len(rows(SECURITY)) > 30
    assert problems(SECURITY) == []


def test_no_line_of_a_table_of_claims_is_overlooked() -> None:
    assert len(NAMED.findall(SECURITY)) == sum(len(NAMED.findall(t)) for _, t in rows(SECURITY))
    assert SECURITY.count("::test_") == len(NAMED.findall(SECURITY))


def test_a_claim_without_a_test_is_found() -> None:
    here = "`tests/unit/test_security_claims.py::test_a_claim_without_a_test_is_found`"
    assert problems(f"{HEADER}| good | {here} |\n") == []
    wrong = {
        "| none | |": "no test",
        "| a promise | later |": "no test",
        f"| both | {here}, later |": "no test",
        "| gone | `tests/unit/test_security_claims.py::test_gone` |": "has no test_gone",
        "| lost | `tests/unit/test_lost.py::test_lost` |": "has no test_lost",
        f'| "No page says this" | {here} |': "no page says so",
    }
    for row, expected in wrong.items():
        assert any(expected in problem for problem in problems(f"{HEADER}{row}\n")), row


def test_the_threat_model_has_its_sections_and_names_every_command() -> None:
    for section in SECTIONS:
        assert f"\n## {section}\n" in SECURITY
    listed = SECURITY.partition("## Which command runs foreign code")[2].partition("### ")[0]
    sources = (ROOT / "kbuild/cli").glob("*.py")
    commands = {
        p.stem
        for p in sources
        if re.search(r"^@app\.(command|callback)", p.read_text(), re.MULTILINE)
    }
    assert {"kubeadm", "verify", "check"} < commands
    for command in commands - {"app"}:
        assert re.search(rf"`(kbuild )?{command}\b", listed), command


def test_the_readme_links_to_the_security_page_and_the_license() -> None:
    assert "[SECURITY.md](SECURITY.md)" in README
    assert "[LICENSE](LICENSE)" in README
