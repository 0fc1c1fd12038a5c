"""Git repositories that hold small Kubernetes trees as tags."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.support.eras import make_tree

IDENTITY = {
    "GIT_AUTHOR_NAME": "nobody",
    "GIT_AUTHOR_EMAIL": "nobody@example.org",
    "GIT_COMMITTER_NAME": "nobody",
    "GIT_COMMITTER_EMAIL": "nobody@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *words: str) -> str:
    """Run git in a folder and return what it prints."""
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**os.environ, **IDENTITY},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def make_repository(folder: Path, tags: Iterable[str]) -> dict[str, str]:
    """Make a repository with a commit a tag, the tag annotated; return the commits by tag."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "-b", "master")
    git(folder, "config", "uploadpack.allowFilter", "true")
    commits = {}
    for tag in tags:
        for entry in folder.iterdir():
            if entry.name != ".git":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        make_tree(folder, tag)
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", tag)
        git(folder, "tag", "-a", "-m", tag, tag)
        commits[tag] = git(folder, "rev-parse", "HEAD")
    return commits
