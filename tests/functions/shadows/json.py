MINE = "the folder's own"
