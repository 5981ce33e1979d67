"""What watches, saves and evaluates while a training runs."""
