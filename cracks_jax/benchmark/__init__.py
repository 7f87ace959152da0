"""The instrument behind `tools/benchmark.py`: how fast a system trains, scores and reads, and how far from the limit.

  job.py         what is measured: system, batch, size, losses, precision
  clock.py       warm-up, alternation, medians, quartiles, ratios
  contenders.py  what is timed: ours, and peers that are handed in (no other framework is imported here)
  machine.py     the machine's measured matrix-product rate, its memory, cores and settings
  flops.py       operations counted by hand from the layers' shapes
  program.py     operations, memory and compile times of the compiled program
  ours.py        our training step and forward pass as contenders
  workloads.py   `step` and `infer`           reading.py   `input` and `pipeline`
  suite.py       the list of the full table   page.py      records as text and as a Markdown page
"""
