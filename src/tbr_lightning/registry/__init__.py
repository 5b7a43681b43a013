"""What ships: the two-sided gate and the aliases it moves."""
