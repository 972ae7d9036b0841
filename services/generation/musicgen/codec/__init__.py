"""EnCodec: codes to audio and back."""
