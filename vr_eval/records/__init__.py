"""What a run keeps, typed: its folders, the files in them and the columns of its tables."""
