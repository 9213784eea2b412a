"""What is learned, and how: pure functions over arrays, without device, clock, file or process."""
