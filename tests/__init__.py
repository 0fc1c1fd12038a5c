"""The tests of kbuild."""
