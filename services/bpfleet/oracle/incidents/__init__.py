"""Real incidents as files, issued on the emulator."""
