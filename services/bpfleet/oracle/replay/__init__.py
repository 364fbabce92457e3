"""Recordings of real kernels on the emulator. Pure; knows nothing of the recorder."""
