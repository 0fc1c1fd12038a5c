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


def add_tag(folder: Path, tag: str, name: str, line: str) -> None:
    """Add a commit with a line more in a file of the newest one, and a tag for it."""
    blob = git(
        "hash-object",
        "-w",
        "--stdin",
        cwd=folder,
        text=git("show", f"HEAD:{name}", cwd=folder) + f"\n{line}\n",
    )
    index = {"GIT_INDEX_FILE": str(folder / "index")}
    git("read-tree", "HEAD", cwd=folder, **index)
    git("update-index", "--cacheinfo", f"100644,{blob},{name}", cwd=folder, **index)
    tree = git("write-tree", cwd=folder, **index)
    commit = git("commit-tree", "-p", "HEAD", "-m", f"Kubernetes {tag}", tree, cwd=folder)
    git("tag", "-a", "-m", f"Kubernetes release {tag}", tag, commit, cwd=folder)
    (folder / "index").unlink()


def git(*args: str, cwd: Path, text: str = "", **environment: str) -> str:
    """Run git on some input and give what it printed."""
    done = subprocess.run(
        ("git", *args),
        cwd=cwd,
        env=ENVIRONMENT | environment,
        check=True,
        input=text,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()
