"""Compressors: steps that make a smaller or faster model file from another.

They are examples around the core, which knows only :class:`serving.steps.Step`. Each needs
an extra of its own (``tonnage[onnx]``, ``tonnage[torch]``, ``tonnage[openvino]``).
"""
