"""Learning: losses, imagination, behaviour, learners. Pure torch."""
