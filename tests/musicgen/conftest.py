import os

# Triton reads it when it is first imported; kernels then run on the CPU, where there is Triton.
os.environ.setdefault("TRITON_INTERPRET", "1")
