"""What a run needs, checked before anything expensive starts, and what its rewards and gradients must not do."""
