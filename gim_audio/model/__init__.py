"""The paper: layers, objective, module, stack."""
