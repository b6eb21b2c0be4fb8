"""What a run may say, whether it is said rightly, and the line for a mistake."""
