"""What all packages share. Import its modules one by one; this file imports none of them."""
