"""Where a sweep's members are trained: processes of this machine, a Ray cluster, or a Slurm array."""
