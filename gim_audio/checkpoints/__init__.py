"""Models on disk: checkpoints of experiments, the models of the package, and other people's."""
