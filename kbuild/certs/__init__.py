"""What expires when: the certificates below files and folders, and what is wrong with them."""
