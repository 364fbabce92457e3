"""The kernel Python runs on, through bpf(2): writes recordings. Needs root; knows nothing of the emulator."""
