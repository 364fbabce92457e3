"""Numbers that user space sees: errno values, bpf(2) enumerations and flags. Enums and their names, no behaviour."""
