"""The Go that builds: which version a tree asks for, and where exactly that comes from."""
