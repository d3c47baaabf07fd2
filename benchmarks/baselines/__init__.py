"""What signforge's GAN is compared with: plain loops and published recipes, as short as can be."""
