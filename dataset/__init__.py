"""Where images come from: folders, LMDB stores, pairs, subsets, the free-form mask bank, bundled photographs.

`dataset.open` is the entrance of the scripts: it decides from what is in a folder how to read it.
"""
