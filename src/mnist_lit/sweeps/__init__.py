"""What the trainings of a sweep or a search came to."""
