"""Files of weights: downloads from a hub, safetensors headers, tensors."""
