"""The verb `report`: run directories and records of evaluations -> one HTML page, Markdown and its figures.

  gather.py, sound.py   what lies on disk         entries.py  evaluations by whom, on what, detected how
  facts.py      what was run                      results, across, ablations, paired.py  the tables
  plots.py      learning and PR curves            judges.py, pictures.py, encode.py    figures of photographs
  model.py      what a report holds               page.py, templates/, files.py        how it is shown and kept
"""
