"""What is said of the difference from the stock kubeadm."""

from pathlib import Path

import pytest

from kbuild.cli.kubeadm import stock_lines
from kbuild.kubeadm.model import Proof, StockDifference


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        (("main.f",), ["amd64: only these differ from the stock kubeadm", "  main.f"]),
        ((), ["amd64: nothing differs from the stock kubeadm, which has the same lifetimes"]),
    ],
)
def test_a_kubeadm_with_the_lifetimes_of_stock_differs_in_nothing(
    functions: tuple[str, ...], said: list[str]
) -> None:
    difference = StockDifference(stock_sha256="0" * 64, functions=functions, moved=False)
    proof = Proof(
        path=Path("x"), arch="amd64", sha256="", ran=None, where="", against_stock=difference
    )
    shown = list(stock_lines(proof))
    assert len(shown) == len(said)
    assert all(line.startswith(start) for line, start in zip(shown, said, strict=True))
