"""The known kernels, one file of sizes for each build. Sizes are those of x86-64."""
