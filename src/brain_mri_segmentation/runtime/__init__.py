"""The process and its surroundings."""
