"""The demo: tiny trained checkpoints and sample LoRAs for a machine without a GPU."""
