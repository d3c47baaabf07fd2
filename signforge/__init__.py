"""signforge: balance rare image classes with one conditional DCGAN, and measure the gain."""
