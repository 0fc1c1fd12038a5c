"""Give a tree the lifetimes asked for, and compute from its source that it has them."""
