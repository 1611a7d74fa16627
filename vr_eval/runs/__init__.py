"""Running a grid: what is missing is trained, cells are evaluated and written to a run directory."""
