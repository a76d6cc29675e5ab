"""What a model's layers hold while it thinks."""
