"""Energy-based models that are statistically right."""
