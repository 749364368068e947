"""Training one ladder: a trunk at constant rate and its cooldown branches."""
