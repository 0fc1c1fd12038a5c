"""What all packages share. Each module is used by itself, so this one imports none of them."""
