"""Taking images in: archives of strangers made a tree of files, inside a VM without programs."""
