"""The same ONNX model behind other servers, each as its documentation shows, one worker, ONNX Runtime on one thread.

Run by the Python of an environment that holds them (`make serving-peers`); nothing here imports tightship.
"""
