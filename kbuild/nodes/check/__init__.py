"""Look at nodes, change nothing, and tell what is wrong with them."""
