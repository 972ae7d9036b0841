"""Weights files: download from a hub, safetensors headers, tensors."""
