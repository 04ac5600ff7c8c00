"""Questions, verification, agent trajectories, chat rendering."""
