"""Users and tasks: credentials, limits, file descriptors, memory."""
