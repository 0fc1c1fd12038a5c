"""The front of this package: advice on a version, or on a cluster with its certificates."""

from kbuild.advise.cluster import cluster_of, next_request
from kbuild.advise.knowledge import Plan, lasting
from kbuild.advise.model import Advice, Cluster, Limit, Rebuild, Step
from kbuild.advise.plan import advise

__all__ = [
    "Advice",
    "Cluster",
    "Limit",
    "Plan",
    "Rebuild",
    "Step",
    "advise",
    "cluster_of",
    "lasting",
    "next_request",
]
