"""Models: settings, what is known of them, and one lazy adapter for each provider."""
