from pathlib import Path

import pytest

from kbuild.kubeadm.compile import memory
from kbuild.kubeadm.compile.memory import collector_settings, free_memory, total_memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "processors", "limit"),
    [(4 * GIB, 2, 3 * GIB // 2), (64 * GIB, 8, 6 * GIB), (2 * GIB, 1, 3 * GIB // 2)],
)
def test_with_much_memory_the_collector_is_off_up_to_a_limit(
    free: int, processors: int, limit: int
) -> None:
    assert collector_settings(free, processors) == {"GOGC": "off", "GOMEMLIMIT": str(limit)}


@pytest.mark.parametrize(("free", "processors"), [(4 * GIB - 2, 2), (4 * GIB, 8), (0, 1)])
def test_with_little_memory_go_decides(free: int, processors: int) -> None:
    assert collector_settings(free, processors) == {}


def test_free_memory_is_less_than_all() -> None:
    assert 0 < free_memory() < total_memory()


def test_a_cgroup_with_a_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("max")
    before = free_memory()
    (tmp_path / "memory.max").write_text("3000000")
    (tmp_path / "memory.current").write_text("1000000")
    assert before > 2_000_000 == free_memory()
    (tmp_path / "memory.current").write_text("4000000")
    assert free_memory() == 0
