"""Networks: encoders of single inputs, the classifier that joins them, heads by kind of task."""
