"""Numbers that user space sees: errno values, bpf(2) enumerations and flags. Enums only, no behaviour."""
