"""Renew the certificates of control planes, one after the other, and take that back."""
