"""A trained model on whole files, batches, streams and in ONNX.

The same layers, without gradients.
"""
