"""Blocking clients for scripts, the command line and load tests. No asyncio."""
