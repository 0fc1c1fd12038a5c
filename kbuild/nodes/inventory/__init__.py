"""Inventories of Ansible and pyinfra, read as data."""
