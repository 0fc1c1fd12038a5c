"""Bundles: everything that builds need on a machine without a network, in one file."""
