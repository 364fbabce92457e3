"""The system calls programs make here, listed once, and the stage on which files and tests make them by name."""
