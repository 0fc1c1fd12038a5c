"""What is wrong with certificates: each module finds one sort of it."""
