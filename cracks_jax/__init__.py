"""cracks_jax: find cracks in photographs of roads, pixel by pixel, with JAX and Flax.

Two papers, complete: CrackSeg (supervised, Song et al. 2020) and UP-CrackNet (unsupervised restoration, Ma et al.
2024). Importing this package imports nothing heavy: data workers stay free of jax.
"""

__version__ = "0.1.0"
