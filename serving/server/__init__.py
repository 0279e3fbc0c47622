"""One process, two ports: JetStream's gRPC and OpenAI's HTTP."""
