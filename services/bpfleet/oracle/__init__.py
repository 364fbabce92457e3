"""Recordings of real kernels: replaying them on the emulator, and making new ones on the kernel at hand."""
