"""The ports: JetStream's gRPC and OpenAI's HTTP over `maxllm.generate`."""
