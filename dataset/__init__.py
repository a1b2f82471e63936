"""Where images come from: LMDB stores, their indices, subsets, the free-form mask bank, bundled photographs.

`dataset.imagenet` is the entrance that training and sampling use: it decides from what is in a folder how to read it.
"""
