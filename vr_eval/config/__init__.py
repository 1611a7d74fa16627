"""From a grid file to cells: YAML, schema, expansion and identity. Nothing here imports torch."""
