"""A trained model on whole files, batches, streams and in ONNX: the same layers, without gradients."""
