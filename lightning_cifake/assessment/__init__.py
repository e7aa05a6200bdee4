"""What models are worth: any model asked about any labelled images, and what is wrong with the images themselves."""
