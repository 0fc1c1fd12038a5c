"""What expires when: the certificates below files and directories, and what is wrong with them."""
