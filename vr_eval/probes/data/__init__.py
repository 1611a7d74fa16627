"""Images whose classes a probe has to tell apart."""
