"""Where data sets, judges and the bridge meet: work that several scripts share.  The top floor, below the scripts."""
