"""The Open Inference Protocol v2 over gRPC, answered by the same models, routes and keys as HTTP."""
