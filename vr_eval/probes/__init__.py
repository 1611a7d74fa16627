"""Where visual information is lost: linear probes on what every component of a model hands to the next."""
