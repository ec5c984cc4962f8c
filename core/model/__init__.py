"""The diffusion transformer, its sampler, text encoder and autoencoder, and where they run."""
