"""A trained model on whole files, batches, streams and in ONNX.

They run the same layers, without gradients.
"""
