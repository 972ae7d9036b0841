"""EnCodec: codes to audio, and audio to codes."""
