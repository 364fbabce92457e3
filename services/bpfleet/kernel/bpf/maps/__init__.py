"""One file per map type or family, and the registry that says which class is which type."""
