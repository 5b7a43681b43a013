"""A model for other programs: a Hugging Face folder, a GGUF file with a Modelfile, the hub."""
