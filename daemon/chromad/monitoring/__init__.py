"""What the service tells of itself: samples, metrics, the page."""
