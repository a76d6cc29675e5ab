"""What a run shows of itself: where its time goes, who waits where, every completion, and what it was made with."""
