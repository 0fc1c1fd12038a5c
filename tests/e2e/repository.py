"""A git repository that holds a source archive as a tag."""

import os
import subprocess
from pathlib import Path

# Nothing of the user's own git settings may change what is committed.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "kbuild tests",
    "GIT_AUTHOR_EMAIL": "tests@kbuild.invalid",
    "GIT_AUTHOR_DATE": "2021-01-13T13:23:00Z",
    "GIT_COMMITTER_NAME": "kbuild tests",
    "GIT_COMMITTER_EMAIL": "tests@kbuild.invalid",
    "GIT_COMMITTER_DATE": "2021-01-13T13:23:00Z",
}


def write_tagged_repository(archive: Path, tag: str, folder: Path, scratch: Path) -> str:
    """Commit the archive's only folder to a bare repository with an annotated tag.

    Returns the commit, which is always the same for the same archive.
    """
    subprocess.run(("tar", "-xf", str(archive), "-C", str(scratch)), check=True)
    (tree,) = scratch.iterdir()
    git("init", "--quiet", "--bare", "--initial-branch=master", str(folder), cwd=scratch)
    git("config", "uploadpack.allowFilter", "true", cwd=folder)
    git("config", "gc.auto", "0", cwd=folder)
    work = (f"--git-dir={folder}", f"--work-tree={tree}")
    git(*work, "add", "--all", "--force", ".", cwd=tree)
    git(*work, "commit", "--quiet", "-m", f"Kubernetes {tag}", cwd=tree)
    git("tag", "-a", "-m", f"Kubernetes release {tag}", tag, cwd=folder)
    git("repack", "-adq", cwd=folder)
    (folder / "index").unlink()
    return git("rev-parse", "HEAD", cwd=folder)


def git(*args: str, cwd: Path) -> str:
    """Run git and give what it printed."""
    done = subprocess.run(
        ("git", *args), cwd=cwd, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()
