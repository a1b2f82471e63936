"""ADM's U-Net: the network of I2SB, compatible with the published weights.

`presets` names the networks and imports no torch; `script_util.create_model` builds them.
"""
