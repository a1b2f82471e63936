"""ADM's U-Net: the network of I2SB, compatible with the published weights.

`guided_diffusion.presets` names the networks and imports no torch;
`guided_diffusion.script_util.create_model` builds them; `guided_diffusion.unet.UNetModel` is the network.
"""
