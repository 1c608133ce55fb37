"""From batches to new parameters: losses, imagination, behaviour, learners. Pure torch."""
