"""Registry entries, one file per seam."""
