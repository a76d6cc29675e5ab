"""What LED costs: engine and trainer measured side by side, and predicted from a datasheet."""
