"""What catalogues and readers look for: CITATION.cff, CHANGELOG.md, the workflow catalogue's file."""

import re
import subprocess
import sys
import tomllib

import jsonschema
import pytest
import yaml

from deqpipe import __version__
from tests.tiny import ROOT

# The parts of the schema of CITATION.cff 1.2.0 that this file uses; other keys are refused, as there.
PERSON = {
    "type": "object",
    "additionalProperties": False,
    "required": ["family-names", "given-names"],
    "properties": {"family-names": {"type": "string"}, "given-names": {"type": "string"}},
}
ENTITY = {"type": "object", "additionalProperties": False, "required": ["name"],
          "properties": {name: {"type": "string"} for name in ("name", "city")}
          | {"country": {"type": "string", "pattern": "^[A-Z]{2}$"}}}  # fmt: skip
AUTHORS = {"type": "array", "minItems": 1, "items": {"anyOf": [PERSON, ENTITY]}}
REFERENCE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["authors", "title", "type"],
    "properties": {
        "authors": AUTHORS, "title": {"type": "string"}, "type": {"enum": ["conference-paper"]},
        "collection-title": {"type": "string"}, "volume": {"type": ["integer", "string"]},
        "year": {"type": "integer"}, "publisher": ENTITY, "conference": ENTITY,
    },
}  # fmt: skip
CITATION = {
    "type": "object",
    "additionalProperties": False,
    "required": ["authors", "cff-version", "message", "title"],
    "properties": {
        "abstract": {"type": "string"}, "authors": AUTHORS, "cff-version": {"const": "1.2.0"},
        "keywords": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "license": {"const": "MIT"},
        "message": {"type": "string"}, "preferred-citation": REFERENCE, "title": {"type": "string"},
        "type": {"const": "software"}, "version": {"type": "string"},
    },
}  # fmt: skip


def test_the_citation_is_valid_and_of_this_version() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    jsonschema.validate(told, CITATION)
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert told["version"] == project["version"] == __version__
    paper = told["preferred-citation"]
    assert "Explicit Regulations Along the Neural Dynamics" in paper["title"]
    assert [one["family-names"] for one in paper["authors"]] == ["Yang", "Li", "Pang", "Liu"]


def test_the_catalogue_finds_what_it_asks_for() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text("utf-8"))["usage"]
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert set(usage["software-stack-deployment"]) == {"conda", "singularity", "singularity+conda"}
    rules = "".join(path.read_text("utf-8") for path in [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")])
    assert not any(usage["software-stack-deployment"].values()) or "conda:" in rules
    assert usage["report"] == bool(re.search(r"^report:", rules, re.MULTILINE))
    assert (ROOT / "config" / "README.md").is_file()
    assert (ROOT / "Snakefile").is_file()


@pytest.mark.slow  # starts Snakemake
def test_snakemakes_lint_finds_nothing_but_that_rules_have_no_environments_of_their_own() -> None:
    command = [sys.executable, "-m", "snakemake", "--lint"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    titles = re.findall(r"^    \* (.+)", told.stdout + told.stderr, re.MULTILINE)
    assert set(titles) == {"Specify a conda environment or container for each rule.:"}


def test_the_changelog_has_an_entry_of_what_is_not_released() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## Unreleased" in text
    assert re.findall(r"^\* (\w+):", text, re.MULTILINE)
    assert set(re.findall(r"^\* (\w+):", text, re.MULTILINE)) <= {"Added", "Changed", "Fixed", "Removed", "Deprecated"}
