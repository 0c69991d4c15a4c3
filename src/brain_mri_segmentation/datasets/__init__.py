"""How the catalog stores what has no dataset class of its own elsewhere."""
