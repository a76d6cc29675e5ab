"""What changes over a run's steps: how rollouts are sampled, and which groups of them are trained on."""
