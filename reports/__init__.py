"""From records to what a person or a CI job reads. Renderers return text, never print."""
