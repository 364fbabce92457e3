"""The node agent: emulated kernels behind gRPC, thousands of them in one process."""
