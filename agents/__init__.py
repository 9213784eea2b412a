"""What is learned: networks, targets and losses as pure functions over arrays."""
