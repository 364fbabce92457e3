"""Generated messages and stubs of the protobuf package bpfleet.v1 (see protos/)."""
