"""Advise on certificate lifetimes: what stays short in a cluster, and what to do in which order."""
