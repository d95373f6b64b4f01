"""What the data are: the declared data set, records, pages of records, and the lab's dummy data."""
