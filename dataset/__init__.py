"""Where images come from: LMDB stores, their indices, subsets, the free-form mask bank, bundled photographs.

`dataset.imagenet` is the entrance that training and sampling use.
"""
