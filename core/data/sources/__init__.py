"""Where records come from: folders, COCO files, lists of URLs, data sets of the hub."""
