"""What knows both gRPC and our own types: errors, names, conversions, and the builder of servers and channels."""
