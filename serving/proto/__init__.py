"""JetStream's wire format as protobuf messages; generated from orchestrator.proto."""
