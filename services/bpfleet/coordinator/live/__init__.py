"""The live page of a coordinator: the fleet as a grid, what happens as it happens, one node in depth."""
