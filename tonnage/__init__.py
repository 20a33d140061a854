"""The front door: the command line and the story of a study."""
