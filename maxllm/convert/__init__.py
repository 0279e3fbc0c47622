"""Open formats in and out: safetensors files, Hugging Face folders, one parameter map per model family."""
