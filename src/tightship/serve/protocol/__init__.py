"""The Open Inference Protocol v2: requests to arrays, arrays to answers; JSON and its binary tensor extension.

https://github.com/kserve/open-inference-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""
