"""Where images and models come from: files, folders and the hub."""
