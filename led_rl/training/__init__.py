"""From a recipe to a trained checkpoint: TRL's GRPO trainer with LED rollouts."""
