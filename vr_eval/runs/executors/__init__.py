"""Who does the tasks of a run: this process, processes on this machine, Ray, or Slurm."""
