"""Pictures and volumes: reading, writing, intensities, names."""
