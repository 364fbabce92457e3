"""bpf(2): maps and programs, what they cost and who is charged."""
