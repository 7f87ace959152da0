"""The instrument behind `tools/scaling.py`: what a training step would do on meshes that are not at hand.

  hlo.py        the collectives of a compiled program: kind, bytes, group, how many must follow one another
  machines.py   chips and links as their makers state them, and what a collective costs on a link
  program.py    the training step, compiled from shapes for a mesh of devices that exist in name only
  predict.py    seconds, efficiency and memory of a step, and what limits it
  check.py      the same on devices that can be run here: what the model says beside what is measured
  plan.py       which programs a question needs, each in its own process, and the record of the answer
  page.py       records as text and as a Markdown page
"""
