"""What everything else rests on: errors, objects from configurations, files written whole."""
